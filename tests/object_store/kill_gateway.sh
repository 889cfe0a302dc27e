#!/usr/bin/env bash
# A pipeline in a Ceph whose gateway is killed again and again, and gone on with until it ends; then compared with one on
# disk, bit for bit. It prints how often either happened, and fails where they differ.
#
#   PYTHON=.venv/bin/python tests/object_store/with_ceph.sh tests/object_store/kill_gateway.sh
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$(realpath -s "${PYTHON:-python3}")
place=$(mktemp -d)
trap 'touch "$place/over"; rm -rf "$place"' EXIT
cd "$place" || exit
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}" IRIS_CACHE=$place/cache IRIS_STORE_SECONDS=3 IRIS_SAVE_SECONDS=0.2
export AWS_ENDPOINT_URL=$IRIS_TEST_S3 AWS_ACCESS_KEY_ID=$IRIS_TEST_S3_KEY AWS_SECRET_ACCESS_KEY=$IRIS_TEST_S3_SECRET AWS_REGION=us-east-1
bucket=b$(date +%s)
"$python" -c "import boto3; boto3.client('s3', endpoint_url='$IRIS_TEST_S3').create_bucket(Bucket='$bucket')" || exit
for where in "$place/disk" "s3://$bucket/k"; do
  cat >"$(basename "$where").yaml" <<YAML
game: Pong
preset: tiny
settings: {tokenizer: {lpips: none}}
dataset: $where/data/pong.zarr
run: $where/runs/pong
rounds: 2
round:
  - collect: {steps: 400}
  - train-tokenizer: {updates: 30}
  - tokenize
  - train-dynamics: {updates: 20, from: 2}
then:
  - train-actor-critic: {updates: 20}
  - evaluate: {episodes: 1, max_steps: 10, num_envs: 1}
  - imagine: {render: dream.png, steps: 2, num: 1, warm_up: 2}
YAML
done
"$python" -m iris_cli run disk.yaml >disk.log 2>&1 || { cat disk.log; exit 1; }

gateway() { radosgw -f -n client.gateway --rgw-frontends "beast endpoint=${IRIS_TEST_S3#http://}" >/dev/null 2>&1 & }
killing() {
  local kills=0
  while [ ! -e over ]; do
    sleep $((RANDOM % 5 + 1)); pkill -9 -x radosgw; kills=$((kills + 1)); echo $kills >kills
    sleep $((RANDOM % 7 + 1)); gateway; sleep 2
  done
}
killing & killer=$!
errors=0
until "$python" -m iris_cli run k.yaml >>k.log 2>&1; do
  errors=$((errors + 1))
  [ $errors -lt 60 ] || { tail k.log; exit 1; }
  sleep 1
done
touch over; wait $killer 2>/dev/null
sleep 3
echo "the gateway was killed $(cat kills) times; the command ended with an error $errors times, and once well"
! grep -B2 -A9 Traceback k.log &&
  "$python" - "$here" "s3://$bucket/k" "$place/disk" <<'PY'
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_runs import assert_same
from iris_cli.object_store import StoreURL
assert_same(StoreURL(sys.argv[2]), Path(sys.argv[3]), means=False)
print("what is there is what is on disk, bit for bit")
PY
status=$?
pkill -x radosgw
exit $status
