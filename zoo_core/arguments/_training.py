"""Arguments about the training loop: batch, optimizer and schedule, precision, evaluation, logging, checkpoints."""

from __future__ import annotations

from zoo_core.arguments._group import Group, group
from zoo_core.arguments._spec import argument, no_effect, not_yet, on_gpu

__all__ = [
    "CheckpointArguments",
    "EvaluationArguments",
    "LoggingArguments",
    "LoopArguments",
    "OptimizerArguments",
    "PrecisionArguments",
    "TrainingArguments",
]

_STRATEGIES = ("no", "steps", "epoch")


@group
class LoopArguments(Group):
    """What runs, for how long, in which batches."""

    output_dir: str = argument("./output", "Folder of checkpoints, logs and plots.")
    overwrite_output_dir: bool = argument(False, "Start afresh even if output_dir holds checkpoints.")
    do_train: bool = argument(True, "Train.")
    do_eval: bool = argument(False, "Evaluate on the validation part; an evaluation strategy implies it.")
    do_predict: bool = argument(False, "Evaluate on the test part after training.")
    do_export: bool = argument(False, "Export the model after training.", effect=not_yet("export"))
    per_device_train_batch_size: int = argument(
        8, "The micro batch: sequences a process works on at once.", unit="sequences",
        aliases=("micro_batch_size", "train_batch_size"), minimum=1,
    )  # fmt: skip
    gradient_accumulation_steps: int = argument(
        1, "Micro batches for each optimizer step.", aliases=("accumulate_steps",), minimum=1
    )
    local_batch_size: int | None = argument(
        None, "FleetX: sequences of one replica for each step; sets gradient_accumulation_steps.",
        unit="sequences", minimum=1,
    )  # fmt: skip
    global_batch_size: int | None = argument(
        None, "Sequences of all replicas for each step; checked against the plan, or sets the accumulation.",
        unit="sequences", minimum=1,
    )  # fmt: skip
    num_train_epochs: float = argument(3.0, "Passes over the training part.", unit="epochs", above=0)
    max_steps: int = argument(-1, "Optimizer steps; above 0 it replaces num_train_epochs.", unit="steps", minimum=-1)
    seed: int = argument(42, "Seed of weights, data order and dropout.", minimum=0)
    device: str = argument(
        "auto", "Where to run; auto is the first of gpu, xpu, cpu that Paddle has.",
        choices=("auto", "gpu", "xpu", "cpu", "npu"),
    )  # fmt: skip
    no_cuda: bool = argument(False, "PaddleNLP: do not use a GPU.", effect=no_effect("say --device cpu"))
    ignore_data_skip: bool = argument(
        False, "Resume with the data from the start instead of where the run stopped.",
        effect=no_effect("resuming is always exact"),
    )  # fmt: skip
    autotuner_benchmark: bool = argument(
        False, "PaddleNLP: a five-step run for its tuner.", effect=no_effect("use --max_steps 5")
    )
    benchmark: bool = argument(False, "PaddleNLP: run without saving.", effect=no_effect("use --save_strategy no"))


@group
class OptimizerArguments(Group):
    """AdamW, its schedule and clipping."""

    learning_rate: float = argument(5e-5, "Highest learning rate.", aliases=("max_lr", "lr"), minimum=0)
    min_learning_rate: float = argument(1e-5, "Learning rate after the decay.", aliases=("min_lr",), minimum=0)
    lr_scheduler_type: str = argument(
        "linear", "How the rate falls after the warm-up.",
        choices=("linear", "cosine", "constant", "constant_with_warmup"),
    )  # fmt: skip
    warmup_steps: int = argument(0, "Steps of linear warm-up; above 0 it replaces warmup_ratio.", unit="steps",
                                 minimum=0)  # fmt: skip
    warmup_ratio: float = argument(0.0, "Warm-up as a part of max_steps.", aliases=("warmup_rate",), minimum=0,
                                   maximum=1)  # fmt: skip
    decay_steps: int | None = argument(
        None, "Step at which min_learning_rate is reached; empty is max_steps.", unit="steps", minimum=0
    )
    num_cycles: float = argument(0.5, "PaddleNLP: waves of a cosine schedule without a minimum.",
                                 effect=no_effect("cosine falls once, to min_learning_rate"))  # fmt: skip
    lr_end: float = argument(
        1e-7, "PaddleNLP: last rate of a polynomial schedule.", minimum=0, effect=no_effect("there is no such schedule")
    )
    power: float = argument(
        1.0, "PaddleNLP: power of a polynomial schedule.", above=0, effect=no_effect("there is no such schedule")
    )
    optim: str = argument("adamw", "The optimizer.", choices=("adamw",))
    weight_decay: float = argument(0.0, "Decoupled weight decay of all weights but biases and norms.", minimum=0)
    adam_beta1: float = argument(0.9, "Decay of AdamW's first moment.", aliases=("beta1",), minimum=0, below=1)
    adam_beta2: float = argument(0.999, "Decay of AdamW's second moment.", aliases=("beta2",), minimum=0, below=1)
    adam_epsilon: float = argument(1e-8, "Epsilon of AdamW.", aliases=("epsilon",), above=0)
    max_grad_norm: float = argument(
        1.0, "Clip the global gradient norm to this; 0 does not clip.", aliases=("clip_norm", "grad_clip"), minimum=0
    )
    flatten_param_grads: bool = argument(False, "PaddleNLP: one flat gradient, on NPU.", effect=no_effect("NPU only"))
    tensor_fusion: bool = argument(
        False, "FleetX: one flat buffer for parameters.", effect=no_effect("sharding makes its own buffers")
    )
    offload_optim: bool = argument(False, "Move optimizer states to host memory between steps.",
                                   effect=on_gpu("with sharding; see sharding_offload"))  # fmt: skip
    release_grads: bool = argument(
        False, "Free gradient memory between steps.", effect=no_effect("gradients are cleared after each step")
    )


@group
class PrecisionArguments(Group):
    """Mixed precision. On CPU training is fp32: Paddle has no half-precision kernels there."""

    bf16: bool = argument(False, "Compute in bfloat16.", effect=on_gpu("fp32 on CPU"))
    fp16: bool = argument(False, "Compute in float16 with loss scaling.", effect=on_gpu("fp32 on CPU"))
    fp16_opt_level: str = argument(
        "O1", "O1 casts by operator; O2 keeps half-precision weights with fp32 masters.",
        choices=("O0", "O1", "O2"), aliases=("amp_level",), effect=on_gpu("fp32 on CPU"),
    )  # fmt: skip
    amp_master_grad: bool = argument(False, "Keep fp32 gradients under O2.", effect=on_gpu("always fp32 on CPU"))
    scale_loss: float = argument(32768.0, "First loss scale of float16.", above=0, effect=on_gpu("float16"))
    amp_custom_black_list: tuple[str, ...] = argument(
        (), "Operators kept in fp32.", aliases=("custom_black_list",), effect=on_gpu("mixed precision")
    )
    amp_custom_white_list: tuple[str, ...] = argument(
        (), "Operators always in half precision.", aliases=("custom_white_list",), effect=on_gpu("mixed precision")
    )
    bf16_full_eval: bool = argument(False, "Evaluate wholly in bfloat16.", effect=on_gpu())
    fp16_full_eval: bool = argument(False, "Evaluate wholly in float16.", effect=on_gpu())


@group
class EvaluationArguments(Group):
    """When and how much to evaluate."""

    evaluation_strategy: str = argument(
        "no", "When to evaluate; giving eval_steps or do_eval implies steps.", choices=_STRATEGIES,
        aliases=("eval_strategy",),
    )  # fmt: skip
    eval_steps: int | None = argument(
        None, "Steps between evaluations; empty is logging_steps.", unit="steps", aliases=("eval_freq",), minimum=1
    )
    per_device_eval_batch_size: int = argument(8, "Sequences a process evaluates at once.", unit="sequences", minimum=1)
    eval_iters: int = argument(10, "Batches for each evaluation in pretraining.", minimum=1)
    test_iters: int | None = argument(None, "Batches of the final test; empty is 10 x eval_iters.", minimum=1)
    max_evaluate_steps: int = argument(-1, "Most batches for each evaluation; -1 is eval_iters.", minimum=-1)
    eval_accumulation_steps: int | None = argument(
        None, "PaddleNLP: move predictions to the host so often.", minimum=1,
        effect=no_effect("only sums are kept, and they are on the host"),
    )  # fmt: skip
    prediction_loss_only: bool = argument(
        False, "PaddleNLP: evaluate the loss only.", effect=no_effect("pretraining evaluates the loss only")
    )
    load_best_model_at_end: bool = argument(
        False, "Keep the checkpoint of the best evaluation, named by the file `best` in output_dir, and end with it."
    )
    metric_for_best_model: str | None = argument(
        None,
        "Which metric is compared: loss or ppl, in fine-tuning accuracy too; with eval_with_do_generation bleu4, "
        "rouge1, rouge2 or rougel. Empty is loss, or bleu4.",
    )
    greater_is_better: bool | None = argument(
        None, "Whether higher is better; empty is yes unless the metric is the loss."
    )
    early_stopping_patience: int | None = argument(
        None, "End training after so many evaluations in a row without a better metric; empty never does.", minimum=1
    )
    early_stopping_threshold: float = argument(
        0.0, "How much better the metric must be to count for early_stopping_patience.", minimum=0
    )
    minimum_eval_times: int | None = argument(
        None, "PaddleNLP: evaluate at least so often.", minimum=1, effect=no_effect("eval_steps says how often")
    )


@group
class LoggingArguments(Group):
    """What is printed and recorded."""

    logging_strategy: str = argument("steps", "When to log.", choices=_STRATEGIES)
    logging_steps: int = argument(500, "Steps between log lines.", unit="steps", aliases=("logging_freq",), minimum=1)
    logging_first_step: bool = argument(False, "Also log the first step.")
    logging_dir: str | None = argument(None, "Folder of event files; empty is output_dir/runs.")
    report_to: tuple[str, ...] = argument(
        ("visualdl",), "Event files: visualdl, tensorboard, or none; without VisualDL TensorBoard's are written."
    )
    run_name: str | None = argument(None, "Name of the run in the event files.")
    disable_tqdm: bool = argument(False, "Show no progress bar.")
    log_on_each_node: bool = argument(
        True, "PaddleNLP: log on each machine.", effect=no_effect("each process has its workerlog")
    )
    skip_profile_timer: bool = argument(
        True, "PaddleNLP: no timers.", effect=no_effect("reader and batch time are always in the log line")
    )
    skip_memory_metrics: bool = argument(
        True, "PaddleNLP: no memory report.", effect=no_effect("memory is on the second log line where it is known")
    )
    metrics_output_path: str | None = argument(
        None, "PaddleNLP: file of metrics.", effect=no_effect("trainer_state.json has them")
    )
    profile: bool = argument(False, "Profile steps (FleetX's Profiler section).", effect=not_yet("profiling"))


@group
class CheckpointArguments(Group):
    """When to save, what to keep, where to resume."""

    save_strategy: str = argument("steps", "When to save.", choices=_STRATEGIES)
    save_steps: int = argument(500, "Steps between checkpoints.", unit="steps", minimum=1)
    save_total_limit: int | None = argument(None, "Checkpoints kept; the only good one is never deleted.", minimum=1)
    resume_from_checkpoint: str | None = argument(
        None, "Checkpoint to go on from; --resume without a path takes the latest of output_dir, last_good the newest "
        "there whose every file is as it was written.",
        aliases=("resume", "ckpt_dir"), bare="latest",
    )  # fmt: skip
    async_save: bool = argument(
        False, "Write checkpoints from a copy in host memory while training goes on.", aliases=("use_async_save",)
    )
    unified_checkpoint: bool = argument(
        False, "PaddleNLP: one checkpoint for every layout.", effect=no_effect("every checkpoint is")
    )
    unified_checkpoint_config: str = argument(
        "", "PaddleNLP: switches of the unified checkpoint; async_save is followed, the others change nothing."
    )
    save_sharded_model: bool = argument(
        False, "PaddleNLP: each sharding rank saves its part.", effect=no_effect("it always does")
    )
    load_sharded_model: bool = argument(
        False, "PaddleNLP: load such parts.", effect=no_effect("every layout loads every checkpoint")
    )
    save_on_each_node: bool = argument(
        False, "PaddleNLP: save on each machine.", effect=no_effect("each rank writes its own parts")
    )
    ignore_load_lr_and_optim: bool = argument(False, "Resume without the optimizer's states.")
    ignore_save_lr_and_optim: bool = argument(False, "Save weights only.")
    force_reshard_pp: bool = argument(
        False, "PaddleNLP: reshard even if the layout is the same.", effect=no_effect("loading always goes by name")
    )
    ckpt_quant_stage: str = argument(
        "O0", "PaddleNLP: quantise checkpoints.", choices=("O0", "O1", "O2"),
        effect=no_effect("checkpoints are exact"),
    )  # fmt: skip
    save_epoch: int | None = argument(
        None, "FleetX: epochs between checkpoints.", unit="epochs", minimum=-1,
        effect=no_effect("save_steps decides; say save_strategy epoch to save by epoch"),
    )  # fmt: skip


@group
class TrainingArguments(
    CheckpointArguments, LoggingArguments, EvaluationArguments, PrecisionArguments, OptimizerArguments, LoopArguments
):
    """The training loop."""
