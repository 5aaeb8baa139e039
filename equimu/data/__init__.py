"""What a task trains on: text, arrays or records, in batches that are pure functions of seed, step and row."""

from equimu.data._corpus import Corpus as Corpus
from equimu.data._corpus import read_corpus as read_corpus
from equimu.data._data import Data as Data
from equimu.data._data import TrainingBatches as TrainingBatches
from equimu.data._data import ValidationBatches as ValidationBatches
from equimu.data._dataset import DatasetCorpus as DatasetCorpus
from equimu.data._loader import Loader as Loader
from equimu.data._loader import OrderedLoader as OrderedLoader
from equimu.data._memory import arrays as arrays
from equimu.data._source import source as source
from equimu.data._store import StoreInfo as StoreInfo
from equimu.data._store import TokenStore as TokenStore
from equimu.data._store import open_store as open_store
from equimu.data._text_data import TextData as TextData
from equimu.data._text_data import text as text
from equimu.data._tokenizer import ByteTokenizer as ByteTokenizer
from equimu.data._tokenizer import HuggingFaceTokenizer as HuggingFaceTokenizer
from equimu.data._tokenizer import Tokenizer as Tokenizer
from equimu.data._tokenizer import byte_lengths as byte_lengths
from equimu.data._tokenizer import tokenizer_from_name as tokenizer_from_name
from equimu.data._windows import Batch as Batch
from equimu.data._windows import PackedBatch as PackedBatch
from equimu.data._write import default_cache as default_cache
from equimu.data._write import prepare as prepare
from equimu.data._write import write_parts as write_parts
from equimu.data._write import write_store as write_store
