"""Data flows one way: a folder imports from those above it only, a file from those above it in its folder.

The lists below are the order of reading. DESIGN section 2 says why.
"""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "gpt2np"

# Each folder's files and folders, from the first that is read to the last. The package's own first.
ORDER = {
    "": """errors characters tables html_tables files json_fields outputs tensorfile npzfile processors
        threads ops tracing architectures checkpoints text generation model loading analysis export capture
        kv reference viewer lessons cli __main__""",
    "ops": """blocks row_sums few_rows narrow_weights readable_parameters causal_mask caps products norms
        activations rotation attention embedding""",
    "tracing": """contract config_keys sites site_rows derived cache site_patterns keep metadata_fields plan
        spare_memory recording edits scratch rows_at_once packed_pass step not_finite replay lines
        trace_metadata trace_summary trace trace_folder traced_run resume verify""",
    "architectures": "gpt2 gpt_neo gemma2",
    "architectures/gpt2": "config sites weights forward",
    "architectures/gpt_neo": "config sites weights forward",
    "architectures/gemma2": "config weights sites forward",
    "checkpoints": """bfloat16 torch_pickle torch_writing torchfile config_file folder_contents watched_file
        weight_files tensor_names training_layouts opened_folder generation_file weights hub free_memory
        checkpoint""",
    "text": """vocabulary added_tokens pipeline merges byte_level_bpe hf_tokenizers tokenizer_folder tokenizer
        chat prompts texts_of_model prompt_lists token_search""",
    "generation": """hf_arguments options filters sampling beam stopping generated saved_generation
        ledger_file prompt_row decoding scoring""",
    "analysis": """named_array subjects positions_and_tokens plot layer_norms parameter_counts matrices
        low_rank products_of_heads circuits directions heads attribution paths lens neurons residual_stream
        site_values statistics baseline_notebook interventions losses pairs_of_rows two_prompts patching""",
    "export": "decimal_text dialect_names dialects typescript llmc",
    "export/dialects": """naming own_names extraction_guide huggingface transformer_lens llmc registry
        reading dialect batch writing""",
    "capture": """workers worker_model cluster capture_files after_attention formats manifest prompt_set
        prompt_files runs texts prompt_tokens shared_prefixes shard_plan shard_layout captured_manifest
        packed_rows shard_making capture_folder capture_plan shards_of_plan many shard_reading row_arrays
        row_batches captured verification""",
    "kv": "queries reading extraction resume dataset_prompts dataset_packs datasets examples",
    "kv/examples": "basic_usage",
    "reference": """dump_formats raw_files decoding_steps dumps program_names dump_names axis_layouts
        attention_future layout_choice precision array_requests layer_numbers moved_names unknown_names
        placement error_measure position_alignment noise_bands conventions mistakes mistake_replay mistake_fit
        token_recovery other_prompts search_limit consequences candidates execution_order diagnosis
        judgement comparison step_check report_text token_comparison fixture""",
    "reference/mistakes": """base prompts embedding norms heads weights scale masks softmax cache residual
        activations layers rms_norms rotation groups_and_caps recorded dropout""",
    "viewer": """packing detail_levels commentary circuit_facts matrix_maps head_directions model_parts
        parts_of_gpt2 parts_of_gpt_neo parts_of_gemma2 lens_and_contributions neuron_pushes path_arrays
        logit_strips attention_and_predictions page_facts other_run page_data page_extras opening_place
        page comparison_page posters live_model live_page""",
    "viewer/posters": "lettering drawing facts layout streams attention weights end items notes page",
    "lessons": """time_limit verdict exercise models same pictures by_site by_output planted_mistakes
        attention_mistakes
        exercises showing learner_code checker percent_file notebook scripts exercise_functions shelf
        learner_files running code_colours prose page handout solutions 1_tokens 2_words_alone 3_attention
        4_next_word 5_induction 6_patching 7_your_own""",
    "lessons/exercises": """token_by_token merging nearest_mistakes tokens after_mlp norm_mistakes stream
        attention distributions decoding next_word stripes circuits directions patches patching
        recorded_steps own_hints own_judge own_mistakes own""",
    "lessons/solutions": """1_tokens 2_words_alone 3_attention 4_next_word 5_induction 6_patching
        7_your_own""",
    "cli": "terminal texts parser arguments report verbs program",
    "cli/verbs": """printed_arrays circuits_weights kv_tables captured_facts file_facts capture_many trace
        generate score tokenize sites plan info download heads_and_lens circuits stats patch compare capture
        kv export fixture view learn completion docs""",
}
ORDER = {folder: names.split() for folder, names in ORDER.items()}

# Methods that hand over to a file further down, which they import when they are called.
CONVENIENCE = {
    ("model", "capture"),
    ("tracing/trace", "verify"),
    ("tracing/trace", "to"),
    ("tracing/trace", "open"),
    ("capture/captured", "verify"),
    ("reference/comparison", "__str__"),
    ("viewer/page", "view"),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> tuple[str, ...]:
    """`("tracing", "trace")`; of an `__init__.py`, its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {module_of(path) for path in FILES}


def imported_by(node: ast.AST) -> list[tuple[str, ...]]:
    """Modules of gpt2np that a statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return []
    found = []
    for name in names:
        package, *parts = name.split(".")
        while parts and tuple(parts) not in MODULES:
            parts.pop()  # what is imported is a name in a module
        if package == "gpt2np":
            found.append(tuple(parts))
    return found


def imports(path: Path) -> list[tuple[tuple[str, ...], str | None]]:
    """Every module that a file imports, with the function that does so in its body."""
    found = []

    def visit(node: ast.AST, function: str | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            found.extend((module, function) for module in imported_by(child))
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            visit(child, inside)

    visit(ast.parse(path.read_text("utf-8")), None)
    return found


def place(module: tuple[str, ...]) -> tuple[int, ...]:
    """Where a module stands: the place of its folder, of the folder in that, and of the file."""
    return tuple(ORDER["/".join(module[:i])].index(name) for i, name in enumerate(module))


def test_imports_point_upwards():
    from_below = []
    for path in FILES:
        module = module_of(path)
        for imported, function in imports(path):
            if imported == () or ("/".join(module), function) in CONVENIENCE:
                continue  # the package itself has nothing but its version to offer
            if path.name == "__init__.py" and imported[: len(module)] == module:
                continue  # a folder names what it offers
            if place(imported) >= place(module):
                from_below.append(f"{'/'.join(module)} imports {'/'.join(imported)}")
    assert from_below == []


def test_every_file_has_its_place_and_every_place_its_file():
    for folder, names in ORDER.items():
        there = {p.stem for p in (PACKAGE / folder).glob("*.py")} - {"__init__"}
        there |= {p.parent.name for p in (PACKAGE / folder).glob("*/__init__.py")}
        assert there == set(names), folder
        assert len(names) == len(set(names)), folder
    folders = {str(p.parent.relative_to(PACKAGE)) for p in FILES if p.parent != PACKAGE}
    assert folders == set(ORDER) - {""}


def test_every_convenience_method_is_there():
    for module, function in CONVENIENCE:
        text = (PACKAGE / f"{module}.py").read_text("utf-8")
        assert any(f == function for _, f in imports(PACKAGE / f"{module}.py")), (module, function)
        assert f"def {function}(" in text


def test_the_root_holds_what_the_package_is_and_nothing_else():
    listed = set(ORDER[""]) - {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    files = {p.name for p in PACKAGE.iterdir() if p.is_file()}
    assert files == {f"{name}.py" for name in listed} | {"__init__.py", "py.typed"}


def test_files_are_short_enough_to_read():
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in [*FILES, *PACKAGE.rglob("*.js")]}
    assert {str(path): n for path, n in lines.items() if n > 400} == {}


def test_no_module_has_the_name_of_a_public_function():
    import gpt2np

    functions = {name for name in gpt2np.__all__ if callable(getattr(gpt2np, name))}
    assert not functions & set(ORDER[""])
    assert len(gpt2np.__all__) < 12


def test_tests_lie_in_the_folders_of_what_they_test():
    tests = Path(__file__).parent
    folders = {str(p.parent.relative_to(tests)) for p in tests.rglob("test_*.py")}
    assert folders <= {*ORDER, ".", "benchmarks", "documents", "mutation"}


PROBE = """
import sys, time
import numpy
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
start = time.perf_counter()
import gpt2np
seconds = time.perf_counter() - start
model = gpt2np.load("tiny")
model.trace("Elizabeth was").top()
heavy = {"torch", "transformers", "huggingface_hub", "scipy", "matplotlib", "numba"} & set(sys.modules)
print(opened, sorted(heavy), seconds)
"""


def test_import_and_run_are_light_and_open_no_socket(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("[] [] "), done.stdout + done.stderr
