"""Ten bugs that a scaling study has had or could have, each as an edit of our source."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PlantedBug:
    """An edit, and the test that must turn red with it."""

    name: str
    file: str
    was: str
    becomes: str
    test: str


BUGS = (
    PlantedBug(
        "targets shifted by one",
        "sweep/train.py",
        "return self.forward(inputs_BT, document_BT, rows_BT[:, 1:])",
        "return self.forward(inputs_BT, document_BT, inputs_BT)",
        "test_train.py::test_what_a_step_sees_is_its_rows_each_target_after_its_input",
    ),
    PlantedBug(
        "non-causal mask",
        "models/attention_cpu.py",
        "attn_mask=seen_B1TT, is_causal=seen_B1TT is None,",
        "attn_mask=seen_B1TT, is_causal=False,",
        "test_gpt.py::test_a_later_token_changes_no_earlier_logit",
    ),
    PlantedBug(
        "head left out of FLOPs",
        "models/flops.py",
        "return self.matrices + self.head",
        "return self.matrices",
        "test_flops.py::test_gpt2_has_its_published_parameters_and_flops",
    ),
    PlantedBug(
        "D counted per micro-batch",
        "sweep/cell.py",
        "return self.steps * self.batch_tokens",
        "return self.steps * self.model.seq_len",
        "test_grid.py::test_every_pair_of_budget_and_size_is_a_cell_or_left_out_for_a_true_reason",
    ),
    PlantedBug(
        "training text in validation",
        "sweep/tokens.py",
        'name, f = ("validation", held) if s.validation else ("train", train)',
        'name, f = ("validation", held) if s.validation else ("train", train)\n'
        '                train.write(text[s.start : s.end] + b"\\0") if s.validation else None',
        "test_evaluate.py::test_validation_rows_are_of_the_text_that_was_held_out",
    ),
    PlantedBug(
        "RNG lost on resume",
        "sweep/train.py",
        'torch.set_rng_state(state["rng"].cpu())',
        "pass",
        "test_train.py::test_noise_that_a_model_draws_is_drawn_again_after_a_restore",
    ),
    PlantedBug(
        "bits for nats",
        "sweep/evaluate.py",
        "loss=total / tokens,",
        "loss=total / math.log(2) / tokens,",
        "test_evaluate.py::test_loss_is_nats_a_target_and_bpb_is_bits_a_byte",
    ),
    PlantedBug(
        "warm-up x10",
        "sweep/recipe.py",
        "warmup_steps=warmup,",
        "warmup_steps=10 * warmup,",
        "test_recipe.py::test_warm_up_is_at_most_a_tenth_and_phases_fit_in_the_run",
    ),
    PlantedBug(
        "a twin record",
        "results/store.py",
        "put: Callable[[Path, Path], None] = os.link",
        "put: Callable[[Path, Path], None] = os.replace",
        "test_record_store.py::test_a_twin_of_a_record_is_refused_and_the_first_stays",
    ),
    PlantedBug(
        "the sign of alpha",
        "analysis/laws.py",
        '_A = Form("A", (("alpha", "log_N", -1.0),))',
        '_A = Form("A", (("alpha", "log_N", 1.0),))',
        "test_laws.py::test_chinchilla_at_printed_constants_predicts_2_05_for_7b_on_1t",
    ),
)
