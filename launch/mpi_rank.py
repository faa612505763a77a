"""One rank of a run that MPI started: learns from MPI who it is and where rank 0 listens, then runs `megacode`.

MPI carries nothing else: the environment of `torch.distributed`'s env:// rendezvous is set, and megacode reads that.
Started by launch/mpirun.sh as `mpiexec -n N python launch/mpi_rank.py train RUN.toml ...`.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm


def world() -> Intracomm:
    """Every rank's communicator; ends the process with 2 and one line where mpi4py or the MPI library is missing."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        refuse(f"mpi4py is missing ({error}): pip install mpi4py")
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        refuse(f"mpi4py finds no MPI library ({reason}): pip install mpich, or load the cluster's MPI module")
    return MPI.COMM_WORLD


def refuse(reason: str) -> NoReturn:
    """End this rank with 2, the code of a wrong call."""
    print(f"mpi_rank: {reason}", file=sys.stderr)
    raise SystemExit(2)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def rendezvous(comm: Intracomm) -> dict[str, str]:
    """The variables of an env:// rendezvous, rank 0's address and port the same on all ranks."""
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    if comm.rank == 0:
        host = "127.0.0.1" if node.size == comm.size else socket.gethostname()
        address = os.environ.get("MASTER_ADDR") or host
        port = os.environ.get("MASTER_PORT") or str(free_port())
    else:
        address = port = ""
    address, port = comm.bcast((address, port), root=0)
    return {
        "RANK": str(comm.rank),
        "WORLD_SIZE": str(comm.size),
        "LOCAL_RANK": str(node.rank),
        "LOCAL_WORLD_SIZE": str(node.size),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }


def exit_code(argv: list[str]) -> int:
    """Run `megacode ARGV` in this process and return the exit code it would have had; exceptions count as 1."""
    try:
        from megacode.cli import main

        code = main(argv)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        return 1
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def run(argv: list[str]) -> None:
    """Be one rank from MPI's start to its end; a failure here ends the ranks of all nodes."""
    comm = world()
    os.environ.update(rendezvous(comm))
    if code := exit_code(argv):
        print(f"mpi_rank: rank {comm.rank} on {socket.gethostname()} failed, ending all", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        comm.Abort(code)


if __name__ == "__main__":
    run(sys.argv[1:])
