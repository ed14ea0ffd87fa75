"""The KV cache of a sentence: extract it, look at it, save it, go on from the file.

python -m gpt2np.kv.examples.basic_usage [MODEL]
"""

import json
import sys
import tempfile
from pathlib import Path

from gpt2np.checkpoints.checkpoint import default_name
from gpt2np.kv.extraction import SAMPLE_PROMPTS, GPT2KVCacheExtractor
from gpt2np.kv.resume import load_kv


def main(model_name: str | None = None) -> None:
    """Four steps, on the first of the sample prompts."""
    extractor = GPT2KVCacheExtractor(model_name or default_name())  # "gpt2", "gpt2-xl", a folder
    text = SAMPLE_PROMPTS.read_text("utf-8").splitlines()[0]

    # 1. Run the text. The result is the dict that the JSON file will hold.
    result = extractor.extract_kv_cache(text)
    sizes = result["metadata"]
    print(f"{sizes['sequence_length']} tokens: {result['input_tokens']}")
    print(f"{sizes['n_layers']} layers of {sizes['n_heads']} heads, {sizes['d_head']} numbers for each token")
    print(f"Predicted next token: {result['predicted_next_token']['token']!r}")
    for candidate in result["predicted_next_token"]["top_k_candidates"]:
        print(f"  {candidate['token']!r}: {candidate['probability']:.2%}")

    # 2. One coordinate: layer, head and token, each counted from 0.
    found = extractor.get_coordinate_kv(result, layer=0, head=0, token=0)
    print(f"Key of {found['token']!r} in layer 0, head 0: {found['key'][:5]} ...")

    with tempfile.TemporaryDirectory() as folder:
        # 3. Save it, and read it with any JSON parser.
        path = Path(folder) / "kv_cache_output.json"
        extractor.save_to_json(result, path)
        again = json.loads(path.read_text("utf-8"))
        print(f"{path.name}: {path.stat().st_size:,} bytes, keys {', '.join(again)}")

        # 4. Go on from the file: the text itself is not run again.
        print(load_kv(path, extractor.model).generate(max_new_tokens=10).finish().text)


if __name__ == "__main__":
    main(*sys.argv[1:2])
