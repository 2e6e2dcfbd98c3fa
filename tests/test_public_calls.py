"""Every command is one call of the same name."""

import rtool


def test_every_public_name_of_the_package_exists():
    for name in rtool.__all__:
        assert getattr(rtool, name) is not None


def test_commands_are_callable_by_their_name():
    for name in ("inspect", "onnx2torch", "finetune", "evaluate", "export", "deploy", "serve", "doctor", "demo"):
        assert callable(getattr(rtool, name)), name
