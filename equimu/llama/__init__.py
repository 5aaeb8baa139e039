"""Weights in the files of others: checkpoints that Hugging Face's `LlamaForCausalLM` reads, and safetensors files."""

from equimu.llama._config import LlamaConfig as LlamaConfig
from equimu.llama._convert import arrays_from_llama as arrays_from_llama
from equimu.llama._convert import arrays_to_llama as arrays_to_llama
from equimu.llama._convert import llama_config_of as llama_config_of
from equimu.llama._convert import reason_against_llama as reason_against_llama
from equimu.llama._read import LlamaCheckpoint as LlamaCheckpoint
from equimu.llama._read import check_llama as check_llama
from equimu.llama._read import read_config as read_config
from equimu.llama._read import read_llama as read_llama
from equimu.llama._safetensors import encode_tensors as encode_tensors
from equimu.llama._safetensors import read_tensors as read_tensors
