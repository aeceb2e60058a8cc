# Two commands for a fresh machine: `make demo` makes the model in assets/demo smaller, `make test` runs every test.
# TESTS="--test gpu" names those that `make test` runs, as arguments of cargo test.
# Either installs a software Vulkan driver if, and only if, no GPU adapter is found, and says so.
# `make test-drivers` runs the tests on every Vulkan driver there is; DRIVER=lvp on those alone whose file names have that in them.
# `make test-interop` holds what the program writes against transformers and other programs, which it installs into target/interop.
# `make compare-gpu` does the same work in PyTorch on the same GPU; PYTHON=... is a Python that has it, ARGS=... goes to the script.

SLICEGPT := cargo run --release --quiet --
DEMO     := assets/demo
OUT      := target/demo-small
PROMPT   := One morning
PYTHON   ?= python3

# What `bench` says of the program that measured. A build without make says "unknown".
export SLICEGPT_GPU_GIT_HASH := $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null)

# Mesa's software driver complains on stderr where there is no such directory.
export XDG_RUNTIME_DIR ?= /tmp

# Tests wait for a driver, files and programs that they start: two at a time leave two cores idle a quarter of the time.
export RUST_TEST_THREADS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 4); [ "$$n" -ge 4 ] && echo "$$n" || echo 4)

.PHONY: demo test test-drivers test-interop compare-gpu build adapter

demo: adapter
	@rm -rf $(OUT) && mkdir -p $(dir $(OUT))
	$(SLICEGPT) run $(DEMO) --basis shared --target-parameters -20% -o $(OUT) --eval $(DEMO)/heldout.txt
	$(SLICEGPT) verify $(OUT)
	$(SLICEGPT) export $(OUT) --format gguf -o $(OUT).gguf --force
	$(SLICEGPT) generate $(DEMO) --prompt "$(PROMPT)"
	$(SLICEGPT) generate $(OUT) --prompt "$(PROMPT)"

test: adapter
	cargo test --release $(TESTS)

test-drivers: adapter
	tests/drivers.sh

test-interop: adapter
	tests/interop/run.sh

compare-gpu: build
	$(PYTHON) benches/compare_pytorch.py --program $${CARGO_TARGET_DIR:-target}/release/slicegpt-gpu $(ARGS)

build:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.91 or later from https://rustup.rs, then run this again"; exit 1; }
	@cargo build --release || { code=$$?; .ci/needs; exit $$code; }

adapter: build
	@code=0; env -u WGPU_ADAPTER_NAME $(SLICEGPT) devices >/dev/null 2>&1 || code=$$?; \
	if [ $$code -eq 4 ]; then \
		echo "No GPU adapter found: installing Mesa's software Vulkan driver (it computes on the CPU: right, but slow)."; \
		sudo=; [ "$$(id -u)" -eq 0 ] || sudo=sudo; \
		[ -z "$$sudo" ] || command -v sudo >/dev/null || \
			{ echo "Neither root nor sudo here: have Mesa's Vulkan driver installed (Debian: mesa-vulkan-drivers libvulkan1)."; exit 1; }; \
		if command -v apt-get >/dev/null; then \
			$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mesa-vulkan-drivers libvulkan1; \
		elif command -v dnf >/dev/null; then $$sudo dnf install -y -q mesa-vulkan-drivers vulkan-loader; \
		elif command -v pacman >/dev/null; then $$sudo pacman -S --noconfirm --needed vulkan-swrast vulkan-icd-loader; \
		else echo "No apt-get, dnf or pacman here: install a Vulkan driver by hand, then run this again."; exit 1; fi; \
	fi; \
	$(SLICEGPT) devices
