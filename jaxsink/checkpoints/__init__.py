"""Weights in and out: lazy readers of safetensors, GGUF and npz, the catalogue of packaged weights, tokenizers."""

from jaxsink.checkpoints.catalogue import CATALOGUE as CATALOGUE
from jaxsink.checkpoints.catalogue import Asset as Asset
from jaxsink.checkpoints.catalogue import find_asset as find_asset
from jaxsink.checkpoints.fetch import cache_folder as cache_folder
from jaxsink.checkpoints.fetch import fetch as fetch
from jaxsink.checkpoints.fetch import is_cached as is_cached
from jaxsink.checkpoints.gguf_file import open_gguf as open_gguf
from jaxsink.checkpoints.identity import Identity as Identity
from jaxsink.checkpoints.identity import identify as identify
from jaxsink.checkpoints.json_file import read_json_object as read_json_object
from jaxsink.checkpoints.load import Loaded as Loaded
from jaxsink.checkpoints.load import load as load
from jaxsink.checkpoints.npz_file import open_npz as open_npz
from jaxsink.checkpoints.safetensors_file import open_safetensors as open_safetensors
from jaxsink.checkpoints.source import CheckpointError as CheckpointError
from jaxsink.checkpoints.source import TensorSource as TensorSource
from jaxsink.checkpoints.tokenizer import Tokenizer as Tokenizer
from jaxsink.checkpoints.tokenizer import tokenizer_from_gguf as tokenizer_from_gguf
from jaxsink.checkpoints.tokenizer import tokenizer_from_json as tokenizer_from_json
from jaxsink.checkpoints.tokenizer import tokenizer_of_glassllm as tokenizer_of_glassllm
