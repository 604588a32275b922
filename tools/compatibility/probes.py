"""Run in an environment: tries what is promised with the program that is there, and prints a line about it.

python probes.py PROGRAM VERSION CONVERTED      (CONVERTED: models that were converted elsewhere)
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE.parent)]
FIXTURES = ROOT / "tests" / "fixtures"
MODELS = FIXTURES / "models"
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import numpy as np  # noqa: E402
from safetensors import safe_open  # noqa: E402

import zeroconsolidate  # noqa: E402


def arrays(file: Path) -> dict[str, Any]:
    """Tensors of a file by name; bfloat16 and its like as their bytes."""
    from safetensors import deserialize

    return {
        name: (entry["dtype"], entry["shape"], bytes(entry["data"])) for name, entry in deserialize(file.read_bytes())
    }


def differing(written: Path, expected: dict[str, Any]) -> list[str]:
    """Names of tensors in a directory that are not as expected, or not expected."""
    found: dict[str, Any] = {}
    for file in written.glob("model*.safetensors"):
        found |= arrays(file)
    wrong = [name for name, tensor in found.items() if expected.get(name) not in (tensor, _narrow(tensor))]
    return wrong + ([] if found else ["nothing"])


def _narrow(tensor: tuple[str, list[int], bytes]) -> tuple[str, list[int], bytes] | None:
    """float32 as bfloat16, where that loses nothing: what a training had that kept its masters so."""
    dtype, shape, data = tensor
    words = np.frombuffer(data, np.uint32) if dtype == "F32" else np.ones(1, np.uint32)
    return None if (words & 0xFFFF).any() else ("BF16", shape, (words >> 16).astype(np.uint16).tobytes())


def deepspeed(release: str) -> str:
    """Reads every save of a release, and compares all values with those that the engine had."""
    from compatibility.matrix import deepspeeds

    read = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in deepspeeds()[release]:
            if "models" in case.parts or "sentence_transformers" in case.parts or "several" in case.parts:
                continue  # names are changed
            out = Path(folder) / str(read)
            expected = arrays(case / "expected.safetensors")
            # Some cases are of optimizers whose state is not understood, or of ranks whose copies differ.
            anyway = {"weights_only": True, "replicas": "first"}
            zeroconsolidate.consolidate(case / "checkpoint", out, names="stored", lora="keep", **anyway)
            wrong = [name for name in differing(out, expected) if name != "nothing"]
            if wrong:
                raise SystemExit(f"{case.name}: {wrong[:3]} differ")
            read += 1
    return f"{read} {'save' if read == 1 else 'saves'} read, all values as in the engine, bit for bit"


def plain(_: str) -> str:
    """Converts and reads back."""
    cases = ["z1_fp32", "z2_bf16", "z3_bf16", "z3_w12"]
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            out = Path(folder) / case
            zeroconsolidate.consolidate(FIXTURES / case / "checkpoint", out, max_shard_size="2KB", digest="sha256")
            if differing(out, arrays(FIXTURES / case / "expected.safetensors")):
                raise SystemExit(f"{case} differs")
            zeroconsolidate.consolidate(FIXTURES / case / "checkpoint", f"{out}-16", dtype="bf16")
            if not zeroconsolidate.verify(f"{out}-16", against=FIXTURES / case / "checkpoint").ok:
                raise SystemExit(f"{case} in bf16 differs")
            for file in out.glob("*.safetensors"):
                with safe_open(file, "np") as opened:
                    names = list(opened.keys())
                    if any(opened.get_tensor(name).dtype == np.object_ for name in names):
                        raise SystemExit(f"{file} cannot be read")
    _padded()
    read_with = f"safetensors {version('safetensors')}"
    return (
        f"{len(cases)} saves converted in fp32, bit for bit, and in bf16; read back with {read_with}, and so are "
        "padded headers"
    )


def _padded() -> None:
    """Reads files whose headers are padded with spaces, as those of cloned models are, in every way there is."""
    from safetensors.numpy import load_file

    from compatibility.matrix import PADDED, PADDED_OF

    padded, expected = (Path(sys.argv[3]) / name for name in (PADDED, PADDED_OF))
    spaces = 0
    for file in padded.glob("*.safetensors"):
        with file.open("rb") as opened:
            header = opened.read(int.from_bytes(opened.read(8), "little"))
        spaces = max(spaces, len(header) - len(header.rstrip(b" ")))
    if spaces <= 64:
        raise SystemExit("no header is padded")
    if differing(padded, arrays(expected / "model.safetensors")):
        raise SystemExit("a file with a padded header differs")
    true, found = load_file(expected / "model.safetensors"), dict[str, Any]()
    for file in padded.glob("*.safetensors"):
        with safe_open(file, "np") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (it is no mapping)
        if any(not np.array_equal(found[name], tensor) for name, tensor in load_file(file).items()):
            raise SystemExit(f"{file.name} is read in two ways")
    if found.keys() != true.keys() or any(not np.array_equal(found[name], tensor) for name, tensor in true.items()):
        raise SystemExit("a file with a padded header differs")


def torch(_: str) -> str:
    """Tensors in memory, merges, and files that torch loads."""
    import torch
    from safetensors.torch import load_file

    expected = load_file(FIXTURES / "z3_bf16/expected.safetensors")
    weights = zeroconsolidate.state_dict(FIXTURES / "z3_bf16/checkpoint")
    if any(not torch.equal(weights[name], tensor) for name, tensor in expected.items() if name in weights):
        raise SystemExit("state_dict differs")
    with tempfile.TemporaryDirectory() as folder:
        merged, heads, universal = (Path(folder) / name for name in ("merged", "heads", "universal"))
        zeroconsolidate.consolidate(MODELS / "lora_z3/checkpoint", merged, lora="merge", base=MODELS / "_bases/llama")
        elsewhere = Path(sys.argv[3]) / "merged"
        if differing(merged, arrays(elsewhere / "model.safetensors")):
            raise SystemExit("the merge differs from that of another release")
        zeroconsolidate.consolidate(MODELS / "m3_z3/checkpoint", heads)
        truth = load_file(MODELS / "m3_z3/expected.safetensors")
        for head in ("colbert_linear", "sparse_linear"):
            for key, tensor in torch.load(heads / f"{head}.pt", map_location="cpu", weights_only=True).items():
                if not torch.equal(tensor, truth[f"{head}.{key}"]):
                    raise SystemExit(f"{head}.{key} differs")
        zeroconsolidate.universal(FIXTURES / "z3_bf16/checkpoint", universal)
        fragments = list(universal.rglob("*.pt"))
        for fragment in fragments:
            if "zero" in fragment.parts and fragment.name != "optimizer_state.pt":  # which has classes of DeepSpeed
                torch.load(fragment, map_location="cpu", weights_only=True)
    files = f"BGE-M3's heads and {len(fragments)} files of a universal checkpoint"
    return f"state_dict and a LoRA merge bit for bit; {files} load"


_CLASSES = {
    "llm_tied_z3": "AutoModelForCausalLM", "llm_untied_z2": "AutoModelForCausalLM", "trainer": "AutoModelForCausalLM",
    "embedder_z2": "AutoModel", "m3_z3": "AutoModel", "reranker_z2": "AutoModelForSequenceClassification",
    "mixtral_z2": "AutoModelForCausalLM", "qwen3_moe_z2": "AutoModelForCausalLM", "merged": "AutoModelForCausalLM",
    "padded": "AutoModelForCausalLM",
}  # fmt: skip


def transformers(_: str) -> str:
    """Loads every converted model; nothing may be missing, and all values must be those of the files."""
    import torch
    import transformers
    from safetensors.torch import load_file

    loaded, unknown = [], []
    for name, kind in _CLASSES.items():
        folder = Path(sys.argv[3]) / name
        try:
            transformers.AutoConfig.from_pretrained(folder)
        except (ValueError, KeyError):
            unknown.append(name)  # a model that this release does not have yet
            continue
        model, info = getattr(transformers, kind).from_pretrained(
            folder, output_loading_info=True, torch_dtype=torch.float32
        )
        if any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
            raise SystemExit(f"{name}: { ({key: list(value)[:3] for key, value in info.items()}) }")
        own = model.state_dict()
        written = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
        wrong = [key for key, tensor in written.items() if key in own and not torch.equal(own[key], tensor)]
        if wrong:
            raise SystemExit(f"{name}: {wrong[:3]} differ")
        loaded.append(name)
    text = f"{len(loaded)} models load, one of them with padded headers; nothing missing, values bit for bit"
    return text + (
        f"; it does not have {', '.join(sorted({each.rpartition('_')[0] for each in unknown}))}" if unknown else ""
    )


def peft(_: str) -> str:
    """Loads a written adapter, and merges it: as the merged model that was written."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(MODELS / "_bases/llama", torch_dtype=torch.float32)
    adapter = Path(sys.argv[3]) / "adapter"
    model = PeftModel.from_pretrained(base, adapter)
    written = load_file(adapter / "adapter_model.safetensors")
    own = {name.replace(".default.", "."): tensor for name, tensor in model.state_dict().items()}
    wrong = [name for name, tensor in written.items() if name not in own or not torch.equal(own[name], tensor)]
    if wrong:
        raise SystemExit(f"{wrong[:3]} differ")
    merged = model.merge_and_unload().state_dict()
    ours = load_file(Path(sys.argv[3]) / "merged" / "model.safetensors")
    apart = max(float((merged[name] - tensor).abs().max()) for name, tensor in ours.items())
    if apart > 1e-6:
        raise SystemExit(f"merge_and_unload differs by {apart}")
    same = "bit for bit" if apart == 0 else f"within {apart:.0e}"
    return f"a written adapter loads; its own merge is ours, {same} (transformers {version('transformers')})"


def sentence_transformers(_: str) -> str:
    """Loads what --sentence-transformers wrote, and embeds as the model and its pooling do."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    folder = Path(sys.argv[3]) / "sentence"
    texts = ["a query", "a longer passage about ships and the sea"]
    found = torch.as_tensor(SentenceTransformer(str(folder), device="cpu").encode(texts))
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        first = AutoModel.from_pretrained(folder)(**batch)[0][:, 0]
    expected = torch.nn.functional.normalize(first, dim=-1) if abs(float(found[0].norm()) - 1) < 1e-4 else first
    apart = float((found - expected).abs().max())
    if apart > 1e-5:
        raise SystemExit(f"embeddings differ by {apart}")
    return (
        f"loads, and embeds as the model does, within {max(apart, 1e-9):.0e} (transformers {version('transformers')})"
    )


def flagembedding(release: str) -> str:
    """Its classes answer with what was converted as they did with the model in training."""
    import FlagEmbedding
    import torch
    from model_fixtures.outputs import PAIRS, TEXTS
    from safetensors.torch import load_file

    options: dict[str, Any] = {"use_fp16": False} | ({} if release.startswith("1.2.") else {"devices": "cpu"})
    models = Path(sys.argv[3])
    embedder = FlagEmbedding.FlagModel(str(models / "embedder_z2"), **options)
    reranker = FlagEmbedding.FlagReranker(str(models / "reranker_z2"), **options)
    m3 = FlagEmbedding.BGEM3FlagModel(str(models / "m3_z3"), **options)
    answers = m3.encode(TEXTS, return_dense=True, return_sparse=True, return_colbert_vecs=True)
    lexical = [
        weight for text in answers["lexical_weights"] for _, weight in sorted(text.items(), key=lambda e: int(e[0]))
    ]
    found = {
        "embedder_z2 flag.embeddings": embedder.encode(TEXTS),
        "reranker_z2 flag.scores": reranker.compute_score(PAIRS),
        "m3_z3 flag.dense": answers["dense_vecs"],
        "m3_z3 flag.colbert": np.concatenate(answers["colbert_vecs"]),
        "m3_z3 flag.lexical_weights": lexical,
    }
    apart = 0.0
    for which, values in found.items():
        case, name = which.split()
        truth = load_file(MODELS / case / "outputs.safetensors")[name].double()
        expected = truth[:, 2] if name == "flag.lexical_weights" else truth
        answer = torch.as_tensor(np.asarray(values, np.float64))
        if answer.shape != expected.shape or not float((answer - expected).abs().max()) < 1e-5:
            raise SystemExit(f"{which} differs")
        apart = max(apart, float((answer - expected).abs().max()))
    return (
        f"FlagModel, FlagReranker and BGEM3FlagModel load, and answer as the model in training did, within {apart:.0e} "
        f"(transformers {version('transformers')})"
    )


PROBES = {
    "DeepSpeed": deepspeed, "safetensors": plain, "numpy": plain, "torch": torch, "transformers": transformers,
    "PEFT": peft,
    "sentence-transformers": sentence_transformers, "FlagEmbedding": flagembedding,
    "Python for Arm": plain,
}  # fmt: skip

if __name__ == "__main__":
    print(PROBES[sys.argv[1]](sys.argv[2]))
