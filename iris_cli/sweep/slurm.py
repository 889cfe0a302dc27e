"""For clusters that have Slurm: a job array in plain bash, and the line that submits it. Nothing is submitted here."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import iris_cli
from iris_cli.errors import ConfigError
from iris_cli.files import write_atomically
from iris_cli.sweep.manifest import Entry, Sweep
from iris_cli.sweep.process import fixing

NOTICE_SECONDS = 120  # between the request to save and the end of a job's time
LEAST_SECONDS = 60  # of work before that request, for a job to queue again: else it might do so for ever

_SCRIPT = """\
#!/usr/bin/env bash
# Written by iris sweep. Submitted again, it goes on with what is not complete; after iris sweep stop, once iris sweep
# resume has taken that back.
#SBATCH --job-name=iris-sweep
#SBATCH --array={array}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
{gpus}#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{notice}
set -uo pipefail

sweep={sweep}
{exports}
names=({names})
at_once={at_once}

# TERM asks to save and end, and goes on to the runs; `wait` returns early for it, and is then called again.
# USR1, which comes {notice} seconds before the job's time ends, asks the same, and the job then queues again, unless it
# had no time to do anything, or TERM follows so soon that somebody cancels it.
told=0
ends_at=
pids=()
stop() {{ told=$((told + 1)); kill -TERM "${{pids[@]}}" 2>/dev/null; }}
trap '[ -n "$ends_at" ] && [ "$SECONDS" -lt $((ends_at - 10)) ] && ends_at=; stop' TERM INT
trap '[ "$SECONDS" -ge {least} ] && ends_at=$((SECONDS + {notice})); stop' USR1

cd {root} || exit 1
for name in "${{names[@]:SLURM_ARRAY_TASK_ID * at_once:at_once}}"; do
  {python} -m iris_cli sweep work "$sweep" "$name" >>"$sweep/logs/$name.log" 2>&1 &
  pids+=("$!")
done
status=0
for pid in "${{pids[@]}}"; do
  while :; do
    before=$told
    wait "$pid"
    code=$?
    [ "$told" -eq "$before" ] && break
  done
  [ "$code" -ge 0 ] || code=130  # bash 5.2 may lose the code of a run that ends in the moment of the request
  [ "$code" -eq 0 ] || status=$code
done
if [ -n "$ends_at" ] && [ "$status" -ne 0 ] && [ ! -e "$sweep/stop" ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$status"
"""


def write_script(sweep: Sweep, entries: Sequence[Entry]) -> Path:
    """Write array.sh in the sweep's folder: each task of the array carries out as many runs as share a GPU.

    Raises:
        ConfigError: if a path has a newline in it.
    """
    share = sweep.placement.gpus_per_run
    if share is None:
        share = 0.0 if sweep.wanted.device == "cpu" else 1.0
    at_once = min(int(1 / share + 1e-9), len(entries)) if 0 < share < 1 else 1
    tasks, most = -(-len(entries) // at_once), sweep.placement.parallel
    if any("\n" in str(path) for path in (sweep.directory, sweep.root, sys.executable)):
        raise ConfigError("a path has a newline in it", where=repr(str(sweep.directory)))
    package = shlex.quote(str(Path(iris_cli.__file__).parent.parent))  # this very program, installed or not
    exports = [f"export {name}={value}" for name, value in fixing(sweep.wanted.cpus_per_run).items()]
    exports.append(f"export PYTHONPATH={package}${{PYTHONPATH:+:$PYTHONPATH}}")
    text = _SCRIPT.format(
        array=f"0-{tasks - 1}" + (f"%{-(-most // at_once)}" if most else ""),
        cpus=sweep.wanted.cpus_per_run * at_once, notice=NOTICE_SECONDS, least=LEAST_SECONDS,
        gpus=f"#SBATCH --gres=gpu:{max(1, int(share))}\n" if share else "",
        sweep=shlex.quote(str(sweep.directory)), root=shlex.quote(str(sweep.root)),
        exports="\n".join(exports),
        names=" ".join(entry.name for entry in entries), at_once=at_once, python=shlex.quote(sys.executable),
    )  # fmt: skip
    path = sweep.directory / "array.sh"
    write_atomically(path, text)
    return path


def submission(sweep: Sweep, script: Path) -> str:
    """What to type to submit it. Partition, account and time limit are the cluster's own: `sbatch --time=...`."""
    output = str(sweep.directory / "logs").replace("%", "%%") + "/slurm-%A_%a.log"
    return shlex.join(["sbatch", f"--chdir={sweep.root}", f"--output={output}", str(script)])
