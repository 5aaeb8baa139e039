"""Reading traced programs: what arrays of a model meet in them, and where."""

from equimu.tracing._around import SCOPE as SCOPE
from equimu.tracing._flow import Flow as Flow
from equimu.tracing._flow import Place as Place
from equimu.tracing._jaxpr import CALLS as CALLS
from equimu.tracing._jaxpr import inside as inside
from equimu.tracing._jaxpr import opened as opened
from equimu.tracing._jaxpr import parts_of_scan as parts_of_scan
from equimu.tracing._walk import follow as follow
