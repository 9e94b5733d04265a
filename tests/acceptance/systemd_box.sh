#!/usr/bin/env bash
# Run inside a systemd box: gives the Python and packages that are bound below /opt/bound the shape of an environment
# at /opt/venv that any user may run, then plays the scenario with it.
set -euo pipefail

python=$(cd /opt/bound/python/bin && echo python3.[0-9]*[0-9])
echo /opt/bound/python/lib > /etc/ld.so.conf.d/py.conf
ldconfig
mkdir -p /opt/venv/bin "/opt/venv/lib/$python/site-packages"
ln -s "/opt/bound/python/bin/$python" /opt/venv/bin/python
printf '%s\n' 'home = /opt/bound/python/bin' 'include-system-site-packages = false' > /opt/venv/pyvenv.cfg
# What was installed first, so that it is the copy in /opt that is tested; then what it needs.
printf '%s\n' /opt/persona-daemon /opt/bound/packages > "/opt/venv/lib/$python/site-packages/box.pth"
cat > /opt/venv/bin/persona <<'PYTHON'
#!/opt/venv/bin/python
import sys

from daemon.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
PYTHON
chmod +x /opt/venv/bin/persona
# Safetensors writes weights for their owner alone.
cp -r /opt/bound/base /opt/base
chmod -R a+rX /opt/base
exec /opt/venv/bin/python -B /opt/bound/project/tests/acceptance/systemd_scenario.py
