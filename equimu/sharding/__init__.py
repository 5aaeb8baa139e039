"""Where arrays and batches lie on a mesh of devices, and how layers work on a part."""

from equimu.sharding._batches import place_batch as place_batch
from equimu.sharding._batches import rows_of_process as rows_of_process
from equimu.sharding._batches import shard_batch as shard_batch
from equimu.sharding._mesh import AXES as AXES
from equimu.sharding._mesh import BATCH as BATCH
from equimu.sharding._mesh import BATCH_AXES as BATCH_AXES
from equimu.sharding._mesh import FSDP as FSDP
from equimu.sharding._mesh import TENSOR as TENSOR
from equimu.sharding._mesh import make_mesh as make_mesh
from equimu.sharding._shards import Shard as Shard
from equimu.sharding._shards import gather_shards as gather_shards
from equimu.sharding._shards import is_gather_of_shards as is_gather_of_shards
from equimu.sharding._shards import is_mesh_aware as is_mesh_aware
from equimu.sharding._specs import partition_specs as partition_specs
from equimu.sharding._specs import shards as shards
from equimu.sharding._specs import state_specs as state_specs
from equimu.sharding._specs import with_specs as with_specs
from equimu.sharding._tensor_parallel import check_share as check_share
from equimu.sharding._tensor_parallel import gather_positions as gather_positions
from equimu.sharding._tensor_parallel import own_positions as own_positions
from equimu.sharding._tensor_parallel import scatter_positions as scatter_positions
from equimu.sharding._tensor_parallel import tensor_parallel_size as tensor_parallel_size
