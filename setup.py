"""Packaging. Nothing is compiled at install; `pip install megacode` stays light, extras bring the rest."""

from setuptools import find_packages, setup

# The grammars that `data.fim.cut = "syntax"` parses with.
GRAMMARS = ("c", "cpp", "go", "java", "javascript", "python", "ruby", "rust", "typescript")

EXTRAS = {
    "gpu": ["triton>=3.6,<3.10"],
    "mpi": ["mpi4py>=4", "mpich>=5"],
    "data": [
        "beautifulsoup4>=4.12",
        "datatrove>=0.10",
        "detect-secrets>=1.5",
        "pyarrow>=20",
        "rensa>=0.5",
        "zstandard>=0.23",
    ],
    "syntax": ["tree-sitter>=0.25", *(f"tree-sitter-{language}" for language in GRAMMARS)],
    "hf": ["transformers>=4.57"],
    "dev": ["pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6", "ruff>=0.12", "mypy>=1.15", "triton>=3.6,<3.10"],
}

setup(
    name="megacode",
    version="0.1.0",
    description="A 3D-parallel training engine for code models: from raw source to a Hugging Face model",
    long_description="See README.md.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["megacode", "megacode.*"]),
    package_data={"megacode.metrics": ["*.html"]},
    install_requires=[
        "torch>=2.13",
        "numpy>=1.26",
        "pydantic>=2.7",
        "typer>=0.15",
        "rich>=13",
        "safetensors>=0.5",
        "tokenizers>=0.21",
        "sentencepiece>=0.2",
        "jinja2>=3.1",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["megacode = megacode.cli:main"]},
)
