@echo off

set PYTHON=
set COMMANDLINE_ARGS=--lowvram --always-batch-cond-uncond

call webui.bat
