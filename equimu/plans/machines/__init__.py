"""Machines that plans are made for: one file a vendor, and a registry."""

from equimu.plans.machines._machine import Machine as Machine
from equimu.plans.machines._registry import COMPILERS as COMPILERS
from equimu.plans.machines._registry import examples as examples
from equimu.plans.machines._registry import machines as machines
from equimu.plans.machines._registry import register_machine as register_machine
