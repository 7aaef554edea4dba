"""Names of the paper's released code, and what to write instead of them (docs/from_the_release.md)."""

from __future__ import annotations

PAGE = "docs/from_the_release.md"

_GRAM_BATCHES = "statistics.gram.batches=1000 (its number counts batches of 16)"
_FISHER_BATCHES = "statistics.fisher.batches=1000 (its number counts batches of 16)"
_DATA = "paths.data_dir=resources, the folder that holds emotion_splits and ner"
_NO_FILTER = (
    "nothing to set: a member is found by all that determines its weights; for an old zoo: regmean-lab zoo import"
)
_MODEL = "model=roberta_base"

SETTINGS = {
    "regmean_reduce_nondiag": "method=regmean method.off_diagonal=0.1",
    "regmean_diag": "method=regmean method.diagonal=true",
    "regmean_mean": "method=regmean",
    "regmean_exclude_param_regex": "method.exclude_layers=[classifier*], layers that are averaged",
    "exclude_param_regex": "method.keep_layers=[classifier*], parameters that stay each model's own",
    "gram_n_example": _GRAM_BATCHES,
    "regmean_n_example": _GRAM_BATCHES,
    "fisher_n_example": _FISHER_BATCHES,
    "fisher_weighted": "method=fisher",
    "fisher_variant": "statistics.fisher.labels_from=batch_hard, batch_loss or expectation",
    "emp_fisher": "statistics.fisher.labels_from=batch_loss",
    "fisher_smooth": "method=fisher method.epsilon=1e-10",
    "fisher_normalize": "method=fisher method.normalization=parameter or model",
    "coeff_search_method": "+multirun_sweeps=coefficient_grid or coefficient_samples",
    "algo": "method=simple, fisher or regmean",
    "merger": "method=regmean and the like, and settings of the method: method.off_diagonal=0.1",
    "ot_params": "method=optimal_transport and its settings",
    "ensembler": "method=ensemble",
    "hard_ensemble": "method=ensemble method.vote=majority",
    "mtl": "method=multitask",
    "reweight_loss_schema": "training.reweight=sqrt",
    "num_train_epochs": "training.epochs=20",
    "max_steps": "training.steps=50000",
    "per_device_train_batch_size": "training.batch_size=16",
    "per_device_eval_batch_size": "training.eval_batch_size=32",
    "max_seq_length": "training.max_length=128",
    "max_grad_norm": "training.gradient_clip=1",
    "lr_scheduler_type": "training.schedule=polynomial",
    "warmup_ratio": "training.warmup=0.06",
    "gradient_accumulation_steps": "training.accumulate=1",
    "load_best_model_at_end": "training.selection=best",
    "metric_for_best_model": "training.selection=best",
    "generation_max_length": "suite.answer_by=generation, and for statistics statistics.gram.generated_tokens=3",
    "predict_with_generate": "suite.answer_by=generation",
    "model_type": _MODEL,
    "tokenizer": _MODEL,
    "model_name": _MODEL,
    "dataset": "suite=emotion",
    "partition_method": "suite=glue_partition suite.partition=iid",
    "ood_datasets": "suite.out_of_domain=[emoint,ssec]",
    "dseed_n": "head_init=different",
    "filter_model": "members=[dailydialog,crowdflower]",
    "templates": "the values without it: seed=1, or -m seed=1,2,3",
    "resources": _DATA,
    "resource_dir": _DATA,
    "required_resources": _DATA,
    "local_zoo_dir": "paths.zoo_dir=zoo",
    "remote_zoo_dir": "paths.zoo_dir=zoo",
    "main_output_dir": "paths.output_dir=outputs",
    "zoo_filter": _NO_FILTER,
}
"""By setting, without what stands before its dots (``merger.``, ``default_model_args.``), what there is here."""


def released_key_problem(key: str) -> str | None:
    """What to write instead of a setting of the released code; None for every other name."""
    for name in reversed(key.split(".")):  # the setting, or a group that it is in: zoo_filter.seed
        if name in SETTINGS:
            return f"{key}: a setting of the paper's released code; here: {SETTINGS[name]} ({PAGE})"
    return None
