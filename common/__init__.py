"""What both applications use, and nothing else."""

from medi2i.common.errors import quiet_while_starting

quiet_while_starting()
