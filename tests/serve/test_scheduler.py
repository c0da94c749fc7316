"""The thread that owns the model: who waits, who runs, who leaves. A fake model, no HTTP, no paddle."""

from __future__ import annotations

import threading

import pytest
from serve_fakes import Heard, Worker, expected

from zoo_core.generate.choice import Sampling
from zoo_core.generate.rules import Rules
from zoo_core.serve.scheduler import Draining, Full, Scheduler


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Watch:
    def __init__(self):
        self.firsts, self.between, self.ends = [], [], []

    def first(self, seconds):
        self.firsts.append(seconds)

    def following(self, seconds):
        self.between.append(seconds)

    def ended(self, job, tokens, how):
        self.ends.append((how, tokens))


def make(batch=2, queue=3, shifts=None, **more):
    worker, clock = Worker(batch, shifts), Clock()
    return Scheduler(lambda: worker, batch, queue, clock=clock, **more), worker, clock


def turns(scheduler, worker, count):
    for _ in range(count):
        scheduler.turn(worker)


def test_rows_join_and_leave_between_passes():
    scheduler, worker, _ = make()
    first, second, third = Heard("one", 3), Heard("two", 5), Heard("three", 2)
    scheduler.submit([first])
    turns(scheduler, worker, 1)
    scheduler.submit([second, third])  # the third waits for a place
    assert (scheduler.waiting, scheduler.running) == (2, 1)
    turns(scheduler, worker, 1)
    assert (scheduler.waiting, scheduler.running) == (1, 2)
    turns(scheduler, worker, 10)
    assert [job.said for job in (first, second, third)] == [
        expected("one", 3), expected("two", 5), expected("three", 2)
    ]  # fmt: skip
    assert {job.end for job in (first, second, third)} == {"length"}
    assert [rows for _, rows in worker.steps] == [1, 2, 2, 2, 2, 1]  # nobody waits while a place is free
    assert (scheduler.waiting, scheduler.running) == (0, 0)


def test_only_streams_hear_of_every_token():
    scheduler, worker, _ = make()
    whole, stream = Heard("one", 3), Heard("one", 3, stream=True)
    scheduler.submit([whole, stream])
    turns(scheduler, worker, 3)
    assert len(whole.events) == 1 and len(whole.events[0].steps) == 3
    assert [event.text for event in stream.events] == list(expected("one", 3))


def test_stop_strings_end_a_row_and_are_no_part_of_it():
    scheduler, worker, _ = make()
    text = expected("one", 8)
    job = Heard("one", 8, stop=[text[2:4]])
    scheduler.submit([job])
    turns(scheduler, worker, 8)
    assert (job.said, job.end) == (text[:2], "stop")
    assert len(worker.steps) == 4  # it left, and nothing ran for it after that


def test_end_tokens_end_a_row():
    scheduler, worker, _ = make()
    text = expected("one", 8)
    job = Heard("one", 8, rules=Rules(Sampling(0.0), ends=(ord(text[3]),), logprobs=1))
    scheduler.submit([job])
    turns(scheduler, worker, 8)
    assert (job.said, job.end) == (text[:3], "stop")
    assert [step.token for step in job.events[0].steps][-1] is None  # how likely the end was is told, too


def test_the_queue_is_bounded_and_all_of_a_request_or_nothing_is_taken():
    scheduler, worker, _ = make(batch=2, queue=3)
    scheduler.submit([Heard("x"), Heard("x"), Heard("x")])
    with pytest.raises(Full) as caught:
        scheduler.submit([Heard("x"), Heard("x"), Heard("x")])
    assert 1 <= caught.value.retry_after <= 60
    scheduler.submit([Heard("x"), Heard("x")])
    with pytest.raises(Full):
        scheduler.submit([Heard("x")])
    turns(scheduler, worker, 4)
    scheduler.submit([Heard("x"), Heard("x")])
    assert scheduler.waiting == 5 - 2 + 2


def test_the_cancelled_leave_their_place():
    watch = Watch()
    scheduler, worker, _ = make(batch=1, watch=watch)
    runs, waits, after = Heard("one", 50, stream=True), Heard("two", 5), Heard("three", 2)
    scheduler.submit([runs, waits, after])
    turns(scheduler, worker, 3)
    scheduler.cancel(waits)
    assert scheduler.waiting == 1  # at once
    scheduler.cancel(runs)
    scheduler.cancel(runs)
    turns(scheduler, worker, 2)
    assert len(runs.events) == 3 and waits.events == [] and after.said == expected("three", 2)
    assert watch.ends == [("cancelled", 0), ("cancelled", 3), ("length", 2)]
    scheduler.cancel(after)  # too late, and no harm
    assert len(watch.ends) == 3


def test_late_answers_fail_whether_they_wait_or_run():
    scheduler, worker, clock = make(batch=1)
    runs, waits, after = Heard("one", 50, deadline=105.0), Heard("two", deadline=104.0), Heard("three", 1)
    scheduler.submit([runs, waits, after])
    turns(scheduler, worker, 1)
    clock.now = 104.5
    turns(scheduler, worker, 1)
    assert waits.end == "timeout" and not runs.events
    clock.now = 106.0
    turns(scheduler, worker, 1)
    assert runs.end == "timeout" and after.end == "length"


def test_an_error_in_the_model_is_told_and_the_next_job_runs():
    watch = Watch()
    scheduler, worker, _ = make(shifts={"a": 3}, watch=watch)
    other, one, two = Heard("other", 3, adapter="a"), Heard("one"), Heard("two", stream=True)
    scheduler.submit([other])
    turns(scheduler, worker, 1)
    scheduler.submit([one])
    worker.use("")
    before, worker.before_step = worker.before_step, lambda: fail_for(worker)
    turns(scheduler, worker, 1)
    worker.before_step = before
    assert one.end == "model" and "ZeroDivisionError" in one.events[0].failure.message
    scheduler.submit([two])
    turns(scheduler, worker, 4)
    assert two.said == expected("two", 4) and other.said == expected("other", 3, 3)
    assert ("model", 0) in watch.ends


def fail_for(worker):
    if worker.adapter == "":
        raise ZeroDivisionError("in a kernel")


def test_a_row_that_cannot_join_fails_with_those_of_its_pass():
    scheduler, worker, _ = make(batch=2)
    worker.slots = 1
    one, two = Heard("one"), Heard("two")
    scheduler.submit([one, two])
    turns(scheduler, worker, 1)
    assert (one.end, two.end) == ("model", "model") and scheduler.running == 0


def test_each_adapter_has_its_rows_and_none_waits_for_anothers_crowd():
    scheduler, worker, _ = make(batch=2, queue=20, shifts={"a": 5, "b": 9})
    crowd = [Heard(f"crowd{at}", 4, adapter="a") for at in range(10)]
    scheduler.submit(crowd)
    turns(scheduler, worker, 1)
    single = Heard("single", 2, adapter="b")
    scheduler.submit([single])
    turns(scheduler, worker, 5)
    assert single.said == expected("single", 2, 9)  # after two of the crowd, not after ten
    assert sum(bool(job.events) for job in crowd) <= 4
    turns(scheduler, worker, 40)
    assert [job.said for job in crowd] == [expected(f"crowd{at}", 4, 5) for at in range(10)]
    assert all(rows <= 2 for _, rows in worker.steps)


def test_adapters_take_turns():
    scheduler, worker, _ = make(batch=2, shifts={"a": 5})
    scheduler.submit([Heard("one", 6), Heard("two", 6, adapter="a")])
    turns(scheduler, worker, 6)
    names = [name for name, _ in worker.steps]
    assert names.count("a") == names.count("") == 6
    assert all({names[at], names[at + 1]} == {"", "a"} for at in range(0, 12, 2))


def test_prompts_are_scored_for_those_who_ask():
    scheduler, worker, _ = make(batch=4)
    scored, both, none = Heard("abc", 0, score_top=2), Heard("abd", 2, score_top=0), Heard("abe", 2)
    scheduler.submit([scored, both, none])
    turns(scheduler, worker, 2)
    assert [score.logprob for score in scored.events[0].prompt] == [None, -0.0, -1.0]
    assert [len(score.top) for score in scored.events[0].prompt] == [0, 2, 2] and scored.end == "length"
    assert [len(score.top) for score in both.events[0].prompt] == [0, 0, 0]
    assert both.said == expected("abd", 2) and none.events[0].prompt is None


def test_an_idle_adapter_gives_its_cache_back_while_others_run():
    scheduler, worker, clock = make(shifts={"a": 1})
    scheduler.submit([Heard("one", 1, adapter="a")])
    turns(scheduler, worker, 1)
    long = Heard("two", 9)
    scheduler.submit([long])
    turns(scheduler, worker, 1)
    clock.now += 61
    turns(scheduler, worker, 1)
    scheduler.submit([Heard("one", 1, adapter="a")])
    turns(scheduler, worker, 1)
    assert worker.pools == 3


def test_times_are_those_of_the_clock():
    watch = Watch()
    scheduler, worker, clock = make(watch=watch)
    scheduler.submit([Heard("one", 3)])
    for _ in range(3):
        clock.now += 0.25
        scheduler.turn(worker)
    assert (watch.firsts, watch.between, watch.ends) == ([0.25], [0.25, 0.25], [("length", 3)])


def test_who_cannot_be_told_does_not_stop_the_others():
    scheduler, worker, _ = make()
    deaf, other = Heard("one", 9, stream=True), Heard("two", 2)
    deaf.deliver = lambda event: 1 / 0
    scheduler.submit([deaf, other])
    turns(scheduler, worker, 3)
    assert other.said == expected("two", 2) and scheduler.running == 0


def started(**more):
    worker = Worker(2)
    scheduler = Scheduler(lambda: worker, 2, 50, **more)
    scheduler.start()
    return scheduler, worker


class Awaited(Heard):
    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        self.done = threading.Event()
        kept = self.events.append
        self.deliver = lambda event: (kept(event), self.done.set() if event.finish or event.failure else None)


def test_the_thread_runs_what_any_thread_asks_for():
    scheduler, _ = started()
    jobs = [Awaited(f"job {at}", 5) for at in range(40)]
    threads = [threading.Thread(target=scheduler.submit, args=(jobs[at::8],)) for at in range(8)]
    for thread in threads:
        thread.start()
    assert all(job.done.wait(20) for job in jobs)
    assert [job.said for job in jobs] == [expected(f"job {at}", 5) for at in range(40)]
    assert scheduler.stop() and not scheduler.alive


def test_draining_takes_nobody_in_and_ends_who_is_in():
    scheduler, worker = started()
    worker.going.clear()
    jobs = [Awaited(f"job {at}", 3) for at in range(5)]
    scheduler.submit(jobs)
    scheduler.drain()
    with pytest.raises(Draining):
        scheduler.submit([Awaited("late")])
    assert not scheduler.wait_idle(0.05)
    worker.going.set()
    assert scheduler.wait_idle(20) and all(job.end == "length" for job in jobs)
    assert scheduler.stop()


def test_stopping_tells_who_is_left():
    scheduler, worker = started()
    worker.going.clear()
    jobs = [Awaited(f"job {at}", 3) for at in range(5)]
    scheduler.submit(jobs)
    stopper = threading.Thread(target=scheduler.stop)
    stopper.start()
    with pytest.raises(Draining):
        for _ in range(10**6):
            scheduler.submit([])
    worker.going.set()
    stopper.join(20)
    assert [job.end for job in jobs] == ["stopped"] * 5 and not scheduler.alive


def test_what_building_the_model_raises_is_told():
    scheduler = Scheduler(lambda: 1 / 0, 1, 1)
    with pytest.raises(ZeroDivisionError):
        scheduler.start()
    assert not scheduler.alive


def test_an_answer_never_depends_on_its_neighbours_whoever_comes_and_goes():
    import numpy as np

    random = np.random.default_rng(0)
    scheduler, worker, _ = make(batch=4, queue=1000, shifts={"a": 4})
    jobs = []
    for at in range(300):
        job = Heard(f"p{at}", int(random.integers(1, 12)), adapter=("", "a")[at % 2])
        jobs.append(job)
        scheduler.submit([job])
        if random.random() < 0.3:
            scheduler.cancel(jobs[int(random.integers(len(jobs)))])
        turns(scheduler, worker, int(random.integers(0, 4)))
    turns(scheduler, worker, 3000)
    assert scheduler.waiting == scheduler.running == 0
    for at, job in enumerate(jobs):
        assert job.cancelled or job.said == expected(f"p{at}", job.row.max_new_tokens, 4 * (at % 2))
    assert sum(bool(job.said) for job in jobs) > 200
