#!/bin/sh
exec "$(dirname "$0")/../../.venv/bin/solemate" train sft "$@"
