#!/usr/bin/env bash
# All that only a GPU can show, into one folder: bash tests/perf/cuda.sh OUT [tests bench stretch catch scaling runs]
# Each part is below ten minutes on a large GPU by estimate; none has run on one yet.
set -u
out=$(mkdir -p "${1:?where to}" && cd "$1" && pwd); shift
here=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
iris() { "$python" -m iris_cli "$@"; }
cd "$(mktemp -d)" || exit
status=0
for part in ${*:-tests bench stretch catch scaling runs}; do
  echo "== $part"
  case $part in
    tests) (cd "$here" && "$python" -m pytest -m cuda -p no:cacheprovider) 2>&1 | tee "$out/tests.txt" ;;
    bench) for agent in iris delta-iris twm; do iris bench --agent $agent --device cuda --out "$out/bench-$agent.json"; done ;;
    stretch)
      [ -f "$out/bench-iris.json" ] || iris bench --device cuda --out "$out/bench-iris.json"
      iris run "$here/tests/perf/stretch.yaml" --device cuda &&
        "$python" "$here/tests/perf/stretch.py" "$out/bench-iris.json" runs/stretch --out "$out/stretch.json" ;;
    catch)
      for precision in float32 bfloat16; do
        mkdir -p $precision && (cd $precision && iris run "$here/pipelines/catch.yaml" --device cuda \
          --set tokenizer.precision=$precision --set dynamics.precision=$precision --set actor_critic.precision=$precision &&
          cp runs/catch-0/reports/evaluate-then.json "$out/catch-$precision.json")
      done ;;
    scaling) iris bench --scaling --device cuda --out "$out/scaling.json" ;;
    runs) # in turn, and side by side by MPS
      for how in "" --mps; do
        OMP_NUM_THREADS=1 "$python" "$here/tests/perf/runs_at_once.py" 1 2 4 --device cuda --gpus-per-run 0.25 --preset published \
          $how | tee "$out/runs$how.txt"
      done ;;
    *) echo "no part '$part'" >&2; false ;;
  esac || status=1
done
exit $status
