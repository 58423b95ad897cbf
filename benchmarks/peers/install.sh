#!/bin/sh
# Install the peers, each in its own environment below DIR, and convert the benchmarks' model for
# them: sh benchmarks/peers/install.sh DIR. What is there already is left alone. Make DIR/models
# first: python -m benchmarks.model --out DIR/models. Needs a C++ compiler; llama.cpp takes half an hour.
set -eu
home=$(realpath "$1")
scripts=$(dirname "$(realpath "$0")")
torch=torch==2.13.0
python=${PYTHON:-python3}
cd "$home"
mkdir -p log
echo "$torch" > torch.txt

# [transformers)  torch first and alone, so that nothing replaces it
if [ ! -e transformers ]; then
  $python -m venv transformers
  transformers/bin/pip install --quiet "$torch"
  transformers/bin/pip install --quiet -c torch.txt transformers==5.23.0 accelerate
fi

# [kvpress)  its pins and ours disagree
if [ ! -e kvpress/ready ]; then
  $python -m venv kvpress
  kvpress/bin/pip install --quiet "$torch"
  kvpress/bin/pip install --quiet -c torch.txt 'transformers==5.2.*' kvpress==0.5.5
  touch kvpress/ready
fi

# [openvino)  and a second environment that converts; torchvision would be of another torch
if [ ! -e openvino/ready ]; then
  $python -m venv openvino
  openvino/bin/pip install --quiet openvino-genai==2026.4.1.0
  touch openvino/ready
fi
if [ ! -e convert/ready ]; then
  $python -m venv convert
  convert/bin/pip install --quiet "$torch"
  convert/bin/pip install --quiet -c torch.txt 'transformers>=5.5,<5.6' optimum-intel==2.2.0 \
    nncf==3.4.0 openvino-tokenizers==2026.4.1.0 gguf sentencepiece
  convert/bin/pip uninstall --quiet --yes torchvision || true
  touch convert/ready
fi
for bits in int8 int4 fp16; do
  if [ ! -e "models/openvino-$bits/openvino_model.bin" ]; then
    convert/bin/optimum-cli export openvino --model models/base \
      --task text-generation-with-past --weight-format "$bits" "models/openvino-$bits" \
      > "log/openvino-$bits.log" 2>&1
  fi
done

# [llama)  built for this processor from its source package, which carries the converter
if [ ! -e llama/ready ]; then
  $python -m venv llama
  CMAKE_ARGS=-DGGML_NATIVE=ON nice -n 19 llama/bin/pip install --quiet \
    --no-binary llama-cpp-python llama-cpp-python==0.3.36
  touch llama/ready
fi
if [ ! -e llama-source/vendor ]; then
  llama/bin/pip download --quiet --no-deps --no-binary llama-cpp-python -d sdist \
    llama-cpp-python==0.3.36
  mkdir -p llama-source
  tar -xzf sdist/llama_cpp_python-*.tar.gz -C llama-source --strip-components 1
fi
if [ ! -e models/q8_0.gguf ]; then
  convert/bin/python "$scripts/convert_llama.py" llama-source/vendor/llama.cpp models/base \
    models/bf16.gguf > log/gguf.log 2>&1
  llama/bin/python "$scripts/quantize_llama.py" models/bf16.gguf models >> log/gguf.log 2>&1
  rm models/bf16.gguf
fi
