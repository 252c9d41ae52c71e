# libwan and the FFmpeg that holds it.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
#   make demo      everything from a fresh clone to demo.mp4
#   make live      a stream without end, in a window or on a page, that takes prompts
#   make check     everything from a fresh clone to 'N passed, M failed'
#   make           libwan and the tools
#   make ffmpeg    build/bin/ffmpeg, with all that FFmpeg has: tens of minutes
#   make ffmpeg-minimal    what demo and check use, build/minimal/bin: minutes
#   make parity    libwan beside the official code, see tools/parity/README.md
#   make judge     what the demo models show, against what was asked of them
#   make install, install-ffmpeg, uninstall, dist, deb, site
#   make fate, unit, checkop, model, emu, fuzz, bench, clean
#   make gpu-bundle, gpu-plans     with --enable-cuda, see docs/performance.md

SRC ?= .
all: libs tools

ifeq ($(wildcard config.mak),)
# A fresh clone: install what is missing (asks first), then configure.
ifeq ($(filter clean distclean help,$(MAKECMDGOALS)),)
config.mak:
	sh $(SRC)/tools/packages.sh
	$(SRC)/configure
endif
endif
-include config.mak
config.mak: $(SRC)/configure

B = build
VERSION := $(shell sed -n 's/^.define WAN_VERSION_M[AIJNORC]* *//p' \
                   $(SRC)/wan/wan.h | paste -sd.)
MAJOR := $(firstword $(subst ., ,$(VERSION)))
CFLAGS ?=

# -------------------------------------------------------------- objects

OBJS = abi.o wan.o job.o ranks.o ranks_watch.o ranks_threads.o ranks_behind.o cards.o launcher.o serve.o condition.o vace.o config.o experts.o files.o places.o log.o json.o tensor.o dev.o nodes.o pager.o ops.o image.o \
       weights.o formats/safetensors.o formats/torch_zip.o formats/gguf.o \
       formats/blocks.o formats/quantise.o formats/names.o \
       formats/lora.o formats/write.o convert.o \
       t5.o clip.o dit.o codec.o vae.o vae22.o vae_layers.o taehv.o preview.o prompts.o \
       sampler.o preset.o rng.o \
       stepcache.o cachetable.o kvcache.o stream.o \
       text_clean.o tokenizer.o \
       cpu/ref.o cpu/cpu.o cpu/linear.o cpu/attention.o cpu/conv.o \
       cpu/norm.o cpu/elem.o cpu/sgemm.o cpu/f32.o cpu/f32_avx2.o cpu/pool.o \
       cpu/bf16.o cpu/int8.o cpu/amx.o cpu/neon.o cpu/linear_rounded.o \
       cpu/attention_rounded.o

OBJS-CUDA = cuda/device.o cuda/weights.o cuda/linear.o cuda/norm.o cuda/rope.o \
            cuda/elem.o cuda/image.o cuda/noise.o cuda/quant.o cuda/cudnn.o \
            cuda/attention.o cuda/flash.o cuda/conv.o cuda/conv_own.o \
            cuda/linear_own.o cuda/replay.o cuda/nccl.o
ifeq ($(CUDA),yes)
OBJS += $(OBJS-CUDA)
DEP_LIBS += $(CUDA_LIBS)
endif

TOOLS = wan-info wan-convert wan-random wan-bench wan-parity wan-worker wan-batch

UNIT = abi amx amx_code arena behind causal codec config endless experts files gguf header job log lora memory names nodes nomemory \
       pager places pool precision preset products prompts quantise ranks rng safetensors sampler scarce serve \
       stepcache text_clean tokenizer \
       torch_zip weights windows worker
# weights.c, replay.c and nccl.c on a runtime that is made up: where the real one
# is not.
ifneq ($(CUDA),yes)
UNIT += cuda_weights cuda_replay cuda_nccl cuda_cards
endif
CHECKOP = checkop
MODEL_TESTS = t5 clip dit vae vae22 taehv pipeline experts ti2v vace causal stepcache convert ranks
FUZZ = safetensors lora torch_zip gguf convert index_json config_json cache_table \
       tokenizer text_clean marks

WAN_OBJS = $(OBJS:%=$(B)/wan/%)
LIB = $(B)/lib/libwan.so.$(VERSION)

ALL_FLAGS = $(CONFIG_FLAGS) $(DEP_CFLAGS) -I$(SRC)/wan -MMD -MP
C = $(CC) -std=c11 -D_GNU_SOURCE $(ALL_FLAGS) $(CFLAGS)

MPI_MODULE = $(if $(filter yes,$(MPI)),$(B)/lib/libwan-mpi.so)
libs: $(LIB) $(B)/lib/libwan.so $(B)/lib/libwan.a $(B)/pkgconfig/wan.pc \
      $(B)/share/libwan/.linked $(MPI_MODULE)
tools: $(TOOLS:%=$(B)/bin/%)

$(B)/wan/%.o: $(SRC)/wan/%.c config.mak
	@mkdir -p $(@D)
	$(C) -c $< -o $@

$(B)/wan/files.o: ALL_FLAGS += -DWAN_DATADIR='"$(DATADIR)"'

$(B)/wan/launcher.o: ALL_FLAGS += -DWAN_LIBDIR='"$(LIBDIR)"'

# The only one that knows MPI.
$(B)/wan/ranks_mpi.o: ALL_FLAGS += $(MPI_CFLAGS)
$(B)/lib/libwan-mpi.so: $(B)/wan/ranks_mpi.o
	@mkdir -p $(@D)
	$(CC) -shared -o $@ $^ $(CONFIG_LINK) $(LDFLAGS) $(MPI_LIBS)

# Of the toolkit's headers these alone know.
$(B)/wan/cuda/%.o: $(SRC)/wan/cuda/%.c config.mak
	@mkdir -p $(@D)
	$(C) $(CUDA_CFLAGS) -c $< -o $@

# What ptxas says of registers and spills is kept beside the object;
# tests/unit/spills.sh reads it.
NVCC_FLAGS = -std=c++17 -O3 -Xptxas -v -Xcompiler \
             -fPIC,-fvisibility=hidden,-Wall,-g $(CUDA_GENCODE) $(CUDA_CFLAGS)
$(B)/wan/cuda/%.o: $(SRC)/wan/cuda/%.cu config.mak
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -I$(SRC)/wan -MMD -MP -MF $(@:.o=.d) -c $< -o $@ \
	    2> $(@:.o=.ptxas) || { cat $(@:.o=.ptxas) >&2; exit 1; }
	@grep -E 'warning|error' $(@:.o=.ptxas) || :

# Users see wan_ functions marked WAN_API alone: the rest is hidden.
$(LIB): $(WAN_OBJS)
	@mkdir -p $(@D)
	$(CC) -shared -Wl,-soname,libwan.so.$(MAJOR) -Wl,-z,defs -o $@ $^ \
	    $(CONFIG_LINK) $(LDFLAGS) $(DEP_LIBS) -lm -lpthread

$(B)/lib/libwan.so: $(LIB)
	ln -sf $(notdir $(LIB)) $(B)/lib/libwan.so.$(MAJOR)
	ln -sf $(notdir $(LIB)) $@

$(B)/lib/libwan.a: $(WAN_OBJS)
	@mkdir -p $(@D)
	rm -f $@ && $(AR) rcs $@ $^

# pc FILE,LIBDIR,INCLUDEDIR
define pc
	@mkdir -p $(dir $(1))
	@printf '%s\n' 'libdir=$(2)' 'includedir=$(3)' '' 'Name: wan' \
	    'Description: Wan 2.1 video models in C' 'Version: $(VERSION)' \
	    'Libs: -L$${libdir} -lwan' \
	    'Libs.private: $(DEP_LIBS) -lm -lpthread' \
	    'Cflags: -I$${includedir}' > $(1)
endef

# The build tree as FFmpeg sees it: the one header that is public.
$(B)/pkgconfig/wan.pc: config.mak $(SRC)/wan/wan.h
	@mkdir -p $(B)/include
	ln -sf $(abspath $(SRC)/wan/wan.h) $(B)/include/wan.h
	$(call pc,$@,$(abspath $(B)/lib),$(abspath $(B)/include))

# What wan_demo_model() finds, from lib/ as from bin/.
$(B)/share/libwan/.linked: config.mak
	@mkdir -p $(@D)
	ln -sfn $(abspath $(SRC)/docs/models.md) $(@D)/models.md
	ln -sfn $(abspath $(SRC)/share/demo) $(@D)/demo
	@touch $@

$(B)/bin/%: $(B)/tools/%.o $(B)/lib/libwan.a
	@mkdir -p $(@D)
	$(CC) -o $@ $(filter %.o,$^) $(B)/lib/libwan.a $(CONFIG_LINK) $(LDFLAGS) $(DEP_LIBS) -lm -lpthread

$(B)/bin/wan-batch: $(SRC)/tools/wan-batch
	@mkdir -p $(@D)
	install -m 755 $< $@

$(B)/bin/wan-info: $(B)/tools/report.o $(B)/tools/calibrate.o $(B)/tools/marks.o
$(B)/bin/wan-bench: $(B)/tools/bench_cache.o

$(B)/tools/%.o: $(SRC)/tools/%.c config.mak
	@mkdir -p $(@D)
	$(C) -c $< -o $@

# ---------------------------------------------------------------- tests

GOLDEN = $(B)/golden
FATE_TOOLS = $(addprefix $(B)/tests/fate/,compare damage joined pty wire)
FATE_SHIM = $(B)/tests/fate/shim.so
ON_TILES = $(B)/tests/model/tiles $(B)/tests/checkop/tiles
TESTS = $(UNIT:%=$(B)/tests/unit/%) $(B)/tests/checkop/checkop \
        $(MODEL_TESTS:%=$(B)/tests/model/%) $(ON_TILES)
SPILLS = $(if $(filter yes,$(CUDA)),$(SRC)/tests/unit/spills.sh)
FATE = $(SRC)/tests/fate/trace.sh $(SRC)/tests/fate/framecrc.sh \
       $(SRC)/tests/fate/filter.sh $(SRC)/tests/fate/fewstep.sh $(SRC)/tests/fate/causal.sh $(SRC)/tests/fate/stream.sh \
       $(SRC)/tests/fate/i2v.sh $(SRC)/tests/fate/ti2v.sh $(SRC)/tests/fate/a14b.sh \
       $(SRC)/tests/fate/v2v.sh $(SRC)/tests/fate/vace.sh $(SRC)/tests/fate/preview.sh $(SRC)/tests/fate/stepcache.sh \
       $(SRC)/tests/fate/cuda.sh $(SRC)/tests/fate/batch.sh $(SRC)/tests/fate/mpi.sh \
       $(SRC)/tests/fate/recipes.sh $(SRC)/tests/fate/live.sh $(SRC)/tests/fate/player.sh $(SRC)/tests/fate/badinput.sh \
       $(SRC)/tests/fate/interrupt.sh $(SRC)/tests/fate/places.sh \
       $(SRC)/tests/fate/tools.sh $(SRC)/tests/fate/report.sh $(SRC)/tests/fate/convert.sh $(SRC)/tests/fate/marks.sh \
       $(SRC)/tests/fate/install.sh $(SRC)/tests/fate/pages.sh
PARITY_TEST = $(SRC)/tests/demo/parity.sh
RUN = SRC=$(SRC) B=$(abspath $(B)) WAN_GOLDEN=$(GOLDEN) \
      FFMPEG_SERIES=$$(sed -n 1p $(B)/ffmpeg.series 2>/dev/null) \
      sh $(SRC)/tests/run
LINK = $(CC) -o $@ $^ $(CONFIG_LINK) $(LDFLAGS) $(DEP_LIBS) -lm -lpthread

# With sanitizers -O3 only takes longer: checkop.c 46 s, and 18.
$(B)/tests/%.o: $(SRC)/tests/%.c config.mak
	@mkdir -p $(@D)
	$(C) $(if $(filter-out no,$(SANITIZE)),-O1) -I$(SRC)/tests -c $< -o $@

# The header must stand alone, and the shared library must serve it, and that
# of version 1.0 as well.
$(B)/tests/unit/header $(B)/tests/unit/abi: $(B)/tests/unit/%: \
        $(B)/tests/unit/%.o $(B)/lib/libwan.so
	$(CC) -o $@ $< -L$(B)/lib -lwan -Wl,-rpath,$(abspath $(B)/lib) \
	    $(CONFIG_LINK) -lm

$(B)/tests/checkop/checkop: $(CHECKOP:%=$(B)/tests/checkop/%.o) $(B)/lib/libwan.a
	$(LINK)
$(B)/tests/unit/cuda_%.o: $(SRC)/tests/unit/cuda_%.c config.mak
	@mkdir -p $(@D)
	$(C) -I$(SRC)/tests/unit/fakecuda -I$(SRC)/tests -c $< -o $@
# What it opens as libnccl.so.2 is itself.
$(B)/tests/unit/cuda_nccl $(B)/tests/unit/cuda_cards: CONFIG_LINK += -rdynamic
# The filters' worker and windows, without an FFmpeg, two of them without libwan.
FAKEAV = $(B)/tests/unit/worker $(B)/tests/unit/windows
$(FAKEAV:=.o) $(B)/tests/unit/endless.o: ALL_FLAGS += -I$(SRC)/tests/unit/fakeav -I$(SRC)/tests
$(FAKEAV): $(B)/tests/unit/%: $(B)/tests/unit/%.o
	$(CC) -o $@ $< $(CONFIG_LINK) $(LDFLAGS) -lm -lpthread
$(B)/tests/unit/%: $(B)/tests/unit/%.o $(B)/lib/libwan.a
	$(LINK)
# Products on tiles that are played in C, before the library's own; and the
# library's own machine code.
TILES = $(B)/tests/emu/amx.o $(B)/tests/emu/tiles.o
$(B)/tests/emu/amx.o: $(SRC)/wan/cpu/amx.c config.mak
	@mkdir -p $(@D)
	$(C) -DWAN_AMX_EMULATED -I$(SRC)/tests -c $< -o $@
$(B)/tests/unit/amx: $(B)/tests/unit/amx.o $(TILES) $(B)/lib/libwan.a
	$(LINK)
$(ON_TILES): %: %.o $(TILES) $(B)/lib/libwan.a
	$(LINK)
$(B)/tests/unit/amx_code.o: $(SRC)/tests/unit/amx.c config.mak
	@mkdir -p $(@D)
	$(C) -DAMX_CODE -I$(SRC)/tests -c $< -o $@
$(B)/tests/unit/amx_code: $(B)/tests/unit/amx_code.o $(B)/tests/emu/tiles.o \
        $(B)/tests/emu/tile_trap.o $(B)/lib/libwan.a
	$(LINK)
$(B)/tests/unit/amx_code: LDFLAGS += -Wl,--wrap=wan_amx_bf16 -Wl,--wrap=wan_amx_int8
# Allocations that fail, one after another.
WRAPPED = malloc calloc realloc strdup strndup aligned_alloc mmap
$(B)/tests/unit/nomemory: LDFLAGS += $(WRAPPED:%=-Wl,--wrap=%)
# A processor that multiplies what a test wants it to.
$(B)/tests/model/ranks: LDFLAGS += -Wl,--wrap=wan_bf16_native
$(B)/tests/model/%: $(B)/tests/model/%.o $(B)/lib/libwan.a
	$(LINK)
$(B)/tests/bench/%: $(B)/tests/bench/%.o $(B)/lib/libwan.a
	$(LINK)
# Comes between a program and the C library.
$(FATE_SHIM): $(SRC)/tests/fate/shim.c config.mak
	@mkdir -p $(@D)
	$(CC) -shared -fPIC -O1 -Wall -o $@ $< -ldl
$(FATE_TOOLS) $(B)/tests/demo/judge: $(B)/tests/%: $(B)/tests/%.o
	$(CC) -o $@ $< $(CONFIG_LINK) $(DEP_LIBS) -lm

# Reference data; the tiny checkpoints are packed.
$(GOLDEN)/.stamp: $(wildcard $(SRC)/tests/golden/*.* $(SRC)/tests/golden/*/*)
	rm -rf $(GOLDEN)
	mkdir -p $(GOLDEN)/tiny
	cp -r $(SRC)/tests/golden/*.json $(SRC)/tests/golden/*.safetensors \
	    $(SRC)/tests/golden/tokenizer $(GOLDEN)
	for t in $(SRC)/tests/golden/*.tar.xz; do \
	    xz -dc $$t | tar -xf - -C $(GOLDEN)/tiny || exit 1; done
	touch $@

tests: $(TESTS) $(GOLDEN)/.stamp
unit: $(UNIT:%=$(B)/tests/unit/%) $(GOLDEN)/.stamp
	@$(RUN) $(filter-out %.stamp,$^)
checkop: $(B)/tests/checkop/checkop $(B)/tests/checkop/tiles $(GOLDEN)/.stamp
	@$(RUN) $(filter-out %.stamp,$^)
model: $(MODEL_TESTS:%=$(B)/tests/model/%) $(B)/tests/model/tiles $(GOLDEN)/.stamp
	@$(RUN) $(filter-out %.stamp,$^)
fate: ffmpeg-minimal tools $(FATE_TOOLS) $(FATE_SHIM) $(B)/tests/checkop/checkop \
      $(GOLDEN)/.stamp
	@$(RUN) $(FATE)

include $(SRC)/tests/emu/emu.mak

# For a card, and what cuDNN would do on cards that are not there.
$(B)/tests/gpu/%.o: $(SRC)/tests/gpu/%.c config.mak
	@mkdir -p $(@D)
	$(C) $(CUDA_CFLAGS) -I$(SRC)/tests -c $< -o $@
$(B)/tests/gpu/%: $(B)/tests/gpu/%.o $(B)/lib/libwan.a
	$(LINK)
gpu-plans: $(B)/tests/gpu/plans
	sh $(SRC)/tests/gpu/standin.sh $(CUDA_DIR)/lib64/stubs/libcuda.so \
	    $(B)/tests/gpu/standin $(CC)
	@LD_LIBRARY_PATH=$(B)/tests/gpu/standin:$$LD_LIBRARY_PATH $(RUN) $<

# Tests, benches and an ffmpeg for a bare machine with a GPU, see tests/gpu/run:
# programs beside the libraries they need, less those of the system and of CUDA,
# in a build of their own for one kind of card. The tarball is what is carried:
# the programs have nearly all in common.
GPU_ARCH = 90a
GPU_FFMPEG = $(if $(filter 11.%,$(shell pkg-config --modversion ffnvcodec 2> /dev/null)),5.1,9.0)
GPU_BUNDLE = $(abspath $(B))/gpu-bundle
GPU_PROGRAMS = $(B)/tests/checkop/checkop $(MODEL_TESTS:%=$(B)/tests/model/%) \
               $(B)/tests/gpu/own $(B)/bin/wan-bench $(B)/bin/wan-random
gpu-bundle:
	@mkdir -p $(B)/gpu
	cd $(B)/gpu && $(abspath $(SRC))/configure --enable-cuda --cuda-arch=$(GPU_ARCH) \
	    --disable-onednn --disable-mpi $(GPU_CONFIGURE) > /dev/null && \
	    $(MAKE) B=build GPU_BUNDLE=$(GPU_BUNDLE) gpu-bundle-here
gpu-bundle-here: $(GPU_PROGRAMS) other-ffmpeg-$(GPU_FFMPEG)
	rm -rf $(GPU_BUNDLE) $(GPU_BUNDLE).tar.xz
	mkdir -p $(GPU_BUNDLE)/bin $(GPU_BUNDLE)/lib
	cp $(GPU_PROGRAMS) $(B)/check-$(GPU_FFMPEG)/minimal/bin/ffmpeg \
	    $(B)/check-$(GPU_FFMPEG)/minimal/bin/ffprobe $(GPU_BUNDLE)/bin
	ldd $(GPU_BUNDLE)/bin/* | awk '$$3 ~ "/" && \
	    !/lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s|cuda|nvidia.*)[.]so/ { print $$3 }' | \
	    sort -u | xargs -I{} cp -L {} $(GPU_BUNDLE)/lib
	cp -L $(LIB) $(GPU_BUNDLE)/lib/libwan.so.$(MAJOR)
	strip $(GPU_BUNDLE)/bin/* $(GPU_BUNDLE)/lib/*
	tar -C $(GPU_BUNDLE) -cf - bin lib | xz --lzma2=preset=6,dict=256MiB > $(GPU_BUNDLE).tar.xz
	du -sh $(GPU_BUNDLE) $(GPU_BUNDLE).tar.xz

# That run on this machine's processor, tiny, so that a card's time is not spent
# on a wrong name or option.
check-gpu-run: gpu-bundle
	WAN_GPU_DEVICE=cpu WAN_GPU_SECONDS=1800 $(SRC)/tests/gpu/run $(B)/gpu-dry-run

# Everything but what needs FFmpeg: quick, and what sanitizers are run on.
check-lib-built: tests tools $(EMU)
check-lib: check-lib-built
	@$(RUN) $(TESTS) $(EMU) $(SPILLS) $(SRC)/tests/fate/trace.sh $(PARITY_TEST)

check: tests tools $(EMU) ffmpeg-minimal $(FATE_TOOLS) $(FATE_SHIM) $(B)/tests/demo/judge
	@JUDGE=quick $(RUN) $(TESTS) $(EMU) $(SPILLS) $(FATE) $(PARITY_TEST) \
	    $(SRC)/tests/demo/judge.sh $(SRC)/tests/demo/live.sh

# The suite again in builds of their own: ASan + UBSan, and the threaded tests
# under TSan.
check-sanitize: check-asan check-tsan
asan:
	mkdir -p $(B)/asan
	cd $(B)/asan && $(abspath $(SRC))/configure --sanitize > /dev/null && \
	    $(MAKE) B=build check-lib-built
check-asan: asan
	$(MAKE) -C $(B)/asan B=build check-lib
check-tsan:
	mkdir -p $(B)/tsan
	cd $(B)/tsan && $(abspath $(SRC))/configure --sanitize=thread > /dev/null && \
	    $(MAKE) B=build check-threads

# The CUDA backend for every architecture, where nvcc is: it compiles, links
# and spills nothing, and what needs the libraries' headers asks its stand-ins
# for the right thing. What runs on a card is tests/gpu/run.
check-cuda:
	@mkdir -p $(B)/cuda
	cd $(B)/cuda && $(abspath $(SRC))/configure --enable-cuda > /dev/null && \
	    $(MAKE) B=build check-cuda-build
check-cuda-build: libs $(EMU_HEADERS)
	@$(RUN) $(EMU_HEADERS) $(SPILLS)

# Other compilers and C libraries: every file compiles without a word.
check-compile: config.mak
	@$(RUN) $(SRC)/tests/compile.sh

# For arm64, cross-built, and run by qemu; without oneDNN. What takes minutes in
# the emulator is left out, x86's tiles, and ranks, who ask /proc when each of
# them began: of its own process the emulator makes that up. Products once more
# on a processor that has no instructions for BF16 and 8 bits.
ARM64 = $(abspath $(B))/arm64
ARM64_ENV = PKG_CONFIG_SYSROOT_DIR=$(ARM64)/sysroot \
            PKG_CONFIG_LIBDIR=$(ARM64)/sysroot/usr/lib/aarch64-linux-gnu/pkgconfig
ARM64_RUNNER = qemu-aarch64 -L /usr/aarch64-linux-gnu \
               -E LD_LIBRARY_PATH=$(ARM64)/sysroot/usr/lib/aarch64-linux-gnu
ARM64_TESTS = $(filter-out header abi amx amx_code nomemory scarce worker endless ranks,$(UNIT))
check-arm64: $(GOLDEN)/.stamp
	sh $(SRC)/tools/packages.sh cross
	sh $(SRC)/tests/arm64/sysroot.sh $(ARM64)/sysroot
	cd $(ARM64) && $(ARM64_ENV) $(abspath $(SRC))/configure --disable-onednn \
	    --cc=aarch64-linux-gnu-gcc > /dev/null
	$(ARM64_ENV) $(MAKE) -C $(ARM64) B=build AR=aarch64-linux-gnu-ar \
	    LDFLAGS=-Wl,-rpath-link,$(ARM64)/sysroot/usr/lib/aarch64-linux-gnu \
	    libs tools $(ARM64_TESTS:%=build/tests/unit/%) build/tests/model/dit
	@WAN_RUNNER="$(ARM64_RUNNER) -cpu max" $(RUN) \
	    $(ARM64_TESTS:%=$(ARM64)/build/tests/unit/%) $(ARM64)/build/tests/model/dit
	@WAN_RUNNER="$(ARM64_RUNNER) -cpu cortex-a72" $(RUN) \
	    $(ARM64)/build/tests/unit/products

# The filter tests in another release, with this libwan: make check-ffmpeg-7.1
# What does not depend on FFmpeg is not done again; CHECK_FATE can be less. The
# build leaves out what no test uses and hardly optimises.
CHECK_FATE = framecrc filter fewstep causal stream i2v ti2v v2v vace preview cuda recipes live player badinput \
             interrupt marks
# What changes of FFmpeg break first. CI has these alone in the releases between
# the oldest and the newest, make check-all the others too.
CHECK_CORE = framecrc filter i2v v2v interrupt marks
CHECK_FFMPEG = --optflags=-O1 --disable-libx265 --disable-encoder=libx265 \
               --disable-decoder=hevc,webp,mp3float \
               --disable-filter=minterpolate,xfade,xstack \
               --disable-bsf=trace_headers,h264_metadata,hevc_metadata
check-ffmpeg-% other-ffmpeg-%: C_ = $(B)/check-$*
other-ffmpeg-%: all
	@mkdir -p $(C_)/bin
	@for f in lib tests; do ln -sfn ../$$f $(C_)/$$f; done
	@ln -sf ../../bin/wan-info $(C_)/bin
	@dir=$$(sh $(SRC)/tools/get-ffmpeg.sh $* $(B)/source) && \
	    sh $(SRC)/tools/build-ffmpeg.sh $$dir $(C_) $(B)/pkgconfig \
	        $(FFMPEG_CUDA) $(CHECK_FFMPEG)
check-ffmpeg-%: other-ffmpeg-% $(FATE_TOOLS) $(FATE_SHIM) $(GOLDEN)/.stamp
	@SRC=$(SRC) B=$(abspath $(C_)) WAN_GOLDEN=$(GOLDEN) FFMPEG_SERIES=$* \
	    sh $(SRC)/tests/run $(CHECK_FATE:%=$(SRC)/tests/fate/%.sh)

# Generates from held-out prompts with the demo models and measures the pixels;
# make check has a part of it, which is JUDGE=quick.
JUDGE ?= full
judge: ffmpeg-minimal $(B)/tests/demo/judge
	@JUDGE=$(JUDGE) $(RUN) $(SRC)/tests/demo/judge.sh $(SRC)/tests/demo/live.sh

# Beside the official code, of those who have it and real weights: make parity
# MODEL=DIR OFFICIAL=DIR [PARITY='--size 480x272']; see tools/parity/README.md.
PYTHON ?= python3
parity: $(B)/bin/wan-parity $(B)/bin/wan-info
	@[ -n "$(MODEL)" ] && [ -n "$(OFFICIAL)" ] || { \
	    echo "make parity MODEL=DIR OFFICIAL=DIR, see tools/parity/README.md" >&2; exit 2; }
	$(PYTHON) $(SRC)/tools/parity/parity.py $(MODEL) $(OFFICIAL) \
	    --native $(B)/bin/wan-parity --info $(B)/bin/wan-info $(PARITY)

check-threads: $(filter %/job %/causal %/endless %/worker %/pool %/scarce %/lora %/cuda_weights %/cuda_replay %/cuda_nccl %/behind, \
                 $(UNIT:%=$(B)/tests/unit/%)) \
               $(GOLDEN)/.stamp
	@$(RUN) $(filter-out %.stamp,$^)

# The whole ffmpeg: it has what the distribution's has, and the recipes run in it.
# The tarball, which builds.
CHECK_WHOLE = filter marks recipes live
check-whole: ffmpeg tools $(FATE_TOOLS) $(FATE_SHIM) $(GOLDEN)/.stamp
	@FATE_BIN=$(abspath $(B)/bin) $(RUN) $(SRC)/tests/package/whole.sh \
	    $(CHECK_WHOLE:%=$(SRC)/tests/fate/%.sh)
check-dist: $(GOLDEN)/.stamp
	@$(RUN) $(SRC)/tests/package/dist.sh

# Clips over several processes by another MPI, and by Slurm. Each says why it is
# not done where what it needs is not installed.
check-mpich: tools ffmpeg-minimal $(GOLDEN)/.stamp
	@$(RUN) $(SRC)/tests/mpich.sh
check-slurm: tools ffmpeg-minimal $(GOLDEN)/.stamp
	@$(RUN) $(SRC)/tests/slurm.sh

# Where memory lies on a machine with two nodes of it, which qemu plays.
$(B)/tests/numa/ahead: $(B)/tests/numa/ahead.o $(B)/lib/libwan.a
	$(LINK)
check-numa: $(B)/tests/bench/stages $(B)/tests/numa/ahead $(GOLDEN)/.stamp
	@$(RUN) $(SRC)/tests/numa/run.sh

check-deb:
	@$(RUN) $(SRC)/tests/package/deb.sh
# After apt install of what make deb made: the system's ffmpeg, mpv, PyAV.
check-installed:
	@$(RUN) $(SRC)/tests/package/installed.sh

# What CI runs, and what takes hours: all held-out prompts, ten minutes of each
# fuzzer, the bench, all that is installed. However slow the machine, it is whole.
check-all:
	WAN_CI_LIMIT=1000000 sh $(SRC)/.ci/run
	$(MAKE) check-ffmpeg-7.1
	$(MAKE) check-ffmpeg-8.1
	$(MAKE) check-dist
	$(MAKE) check-deb
	$(MAKE) check-installed
	$(MAKE) check-mpich
	$(MAKE) check-slurm
	$(MAKE) check-arm64
	$(MAKE) check-numa
	$(MAKE) check-whole
	if command -v nvcc > /dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then $(MAKE) check-gpu-run; fi
	$(MAKE) judge
	@LONG=1 $(RUN) $(SRC)/tests/fate/v2v.sh $(SRC)/tests/fate/vace.sh
	@KILLS=50 $(RUN) $(SRC)/tests/fate/mpi.sh
	@$(RUN) $(SRC)/tests/fate/hour.sh
	$(MAKE) fuzz FUZZ_SECONDS=600
	$(MAKE) bench

# --------------------------------------------------------------- FFmpeg

# The series that was found, or given; then source, patches, build.
FFMPEG_FLAGS = $(if $(FFMPEG_DIR),--dir=$(FFMPEG_DIR))
# With CUDA in libwan, in FFmpeg too where its headers are: GPU frames and NVENC.
FFMPEG_CUDA = $(if $(filter yes,$(CUDA)),--cuda=auto)
BUILD_FFMPEG = mkdir -p $(B) && \
    dir=$$(sh $(SRC)/tools/get-ffmpeg.sh $(FFMPEG_VERSION) $(B)/source $(FFMPEG_FLAGS)) && \
    sed -n '1s/^\([0-9]*\.[0-9]*\).*/\1/p' $$dir/RELEASE > $(B)/ffmpeg.series && \
    sh $(SRC)/tools/build-ffmpeg.sh $$dir $(B) $(B)/pkgconfig
ffmpeg-minimal: libs $(B)/bin/wan-worker
	@$(BUILD_FFMPEG) $(FFMPEG_CUDA)
# Without a package, or the wish to install one, there is what is there.
ffmpeg: libs $(B)/bin/wan-worker
	@sh $(SRC)/tools/packages.sh ffmpeg || echo "ffmpeg: built with what is there" >&2
	@$(BUILD_FFMPEG) --whole

# make demo [MODEL=DIR] [PROMPT='...'] [NEXT='...'] [DEMO='frames=17:steps=20']
export MODEL PROMPT NEXT DEMO
demo: $(if $(wildcard $(B)/ffmpeg-*/whole/ffmpeg),ffmpeg,ffmpeg-minimal) tools
	@B=$(B) sh $(SRC)/tools/demo.sh

# make live [MODEL=DIR] [PROMPT='...'] [LIVE='page port=9000 steps=8:rate=12']
export LIVE
live: $(if $(wildcard $(B)/ffmpeg-*/whole/ffmpeg),ffmpeg,ffmpeg-minimal)
	@command -v $(PYTHON) > /dev/null || { echo "live: wants Python 3 (PYTHON=)" >&2; exit 1; }
	@B=$(B) $(PYTHON) $(SRC)/tools/live.py

# -------------------------------------------------------- fuzz and bench

FUZZ_SECONDS ?= 60
FUZZ_FLAGS = -g -O1 -fsanitize=fuzzer,address,undefined \
             -fno-sanitize-recover=undefined -DWAN_HAVE_ONEDNN=0 \
             -DWAN_HAVE_CUDA=0 -DWAN_DATADIR='"$(DATADIR)"'
FUZZ_SRCS = $(filter-out %/ranks_mpi.c,$(wildcard $(SRC)/wan/*.c \
            $(SRC)/wan/formats/*.c $(SRC)/wan/cpu/*.c))
FUZZ_HEADERS = $(wildcard $(SRC)/tests/fuzz/*.h $(SRC)/wan/*.h \
               $(SRC)/wan/formats/*.h $(SRC)/wan/cpu/*.h)

$(B)/fuzz/marks: $(SRC)/tools/marks.c $(SRC)/tools/marks.h
$(B)/fuzz/%: $(SRC)/tests/fuzz/%.c $(FUZZ_SRCS) $(FUZZ_HEADERS)
	@mkdir -p $(@D)
	clang -std=c11 -D_GNU_SOURCE $(FUZZ_FLAGS) $(DEP_CFLAGS) -I$(SRC)/wan \
	    -DWAN_LIBDIR='"$(LIBDIR)"' -o $@ $(filter %.c,$^) $(DEP_LIBS) -lm -lpthread

fuzz: $(FUZZ:%=$(B)/fuzz/%)
	@for f in $(FUZZ); do \
	    mkdir -p $(B)/fuzz/corpus/$$f; \
	    echo "fuzz $$f, $(FUZZ_SECONDS) s"; \
	    seeds=$(SRC)/tests/fuzz/corpus/$$f; \
	    $(B)/fuzz/$$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 \
	        -rss_limit_mb=4096 -verbosity=0 -print_final_stats=1 \
	        -artifact_prefix=$(B)/fuzz/$$f- $(B)/fuzz/corpus/$$f \
	        $$([ ! -d $$seeds ] || echo $$seeds) 2>&1 | \
	        grep -E 'executed_units|ERROR|SUMMARY' ; \
	    ls $(B)/fuzz/$$f-* > /dev/null 2>&1 && { \
	        echo "fuzz $$f: see $(B)/fuzz/$$f-*"; exit 1; } || :; \
	done

# Ratios of one run; see docs/performance.md.
bench: libs tools ffmpeg-minimal $(B)/tests/checkop/checkop $(B)/tests/bench/stages \
       $(B)/tests/bench/rate
	$(B)/tests/checkop/checkop --bench
	sh $(SRC)/tests/bench/stages.sh $(B)
	sh $(SRC)/tests/bench/stream.sh $(B)

# Clips over two processes; half an hour of a machine that does nothing else.
bench-ranks: libs tools $(B)/tests/bench/stages $(B)/tests/bench/link \
             $(B)/tests/bench/exchange
	sh $(SRC)/tests/bench/ranks.sh $(B)

# -------------------------------------------------------------- install

MANDIR = $(PREFIX)/share/man
PAGES = $(TOOLS:%=$(B)/man/%.1)
$(B)/man/%.1: $(SRC)/docs/man/%.1.in $(SRC)/tools/man.awk $(B)/bin/%
	@mkdir -p $(@D)
	! grep -q '^@HELP@' $< || $(B)/bin/$* --help > $(@:.1=.help)
	awk -v version=$(VERSION) -v help=$(@:.1=.help) -f $(SRC)/tools/man.awk $< > $@.part
	mv $@.part $@
man: $(PAGES)

install: libs tools man
	install -d $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(PREFIX)/include \
	    $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(MANDIR)/man1
	install -m 755 $(LIB) $(DESTDIR)$(LIBDIR)
	ln -sf $(notdir $(LIB)) $(DESTDIR)$(LIBDIR)/libwan.so.$(MAJOR)
	ln -sf $(notdir $(LIB)) $(DESTDIR)$(LIBDIR)/libwan.so
	install -m 644 $(B)/lib/libwan.a $(DESTDIR)$(LIBDIR)
	[ -z "$(MPI_MODULE)" ] || install -m 755 $(MPI_MODULE) $(DESTDIR)$(LIBDIR)
	install -m 644 $(SRC)/wan/wan.h $(DESTDIR)$(PREFIX)/include
	install -m 755 $(TOOLS:%=$(B)/bin/%) $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(PAGES) $(DESTDIR)$(MANDIR)/man1
	$(call pc,$(DESTDIR)$(LIBDIR)/pkgconfig/wan.pc,$(LIBDIR),$(PREFIX)/include)
	install -d $(DESTDIR)$(DATADIR)
	install -m 644 $(SRC)/docs/models.md $(DESTDIR)$(DATADIR)
	for f in $$(cd $(SRC)/share 2> /dev/null && find -L demo -type f); do \
	    install -D -m 644 $(SRC)/share/$$f $(DESTDIR)$(DATADIR)/$$f || exit 1; \
	done

# The tools that were built. They look for libwan in ../lib, from where they
# are, and then where the system does.
FFMPEG_TOOLS = ffmpeg ffprobe ffplay zmqsend
install-ffmpeg: install
	@[ -x $(B)/bin/ffmpeg ] || { \
	    echo "install-ffmpeg: none is built; make ffmpeg does that" >&2; exit 1; }
	for t in $(FFMPEG_TOOLS); do [ ! -x $(B)/bin/$$t ] || \
	    install -m 755 $(B)/bin/$$t $(DESTDIR)$(PREFIX)/bin || exit 1; done

# Of other versions nothing, unless it could not run without this one: the link
# of the soname goes with what it points to, and with it an ffmpeg that needs
# it, but no other.
SONAME = libwan.so.$(MAJOR)
uninstall:
	cd $(DESTDIR)$(LIBDIR) 2> /dev/null || exit 0; \
	    rm -f $(notdir $(LIB)) libwan.a libwan-mpi.so pkgconfig/wan.pc; \
	    for l in libwan.so $(SONAME); do [ -e $$l ] || rm -f $$l; done
	rm -f $(DESTDIR)$(PREFIX)/include/wan.h $(TOOLS:%=$(DESTDIR)$(PREFIX)/bin/%) \
	    $(TOOLS:%=$(DESTDIR)$(MANDIR)/man1/%.1)
	cd $(DESTDIR)$(PREFIX)/bin 2> /dev/null || exit 0; \
	    [ ! -e $(DESTDIR)$(LIBDIR)/$(SONAME) ] || exit 0; \
	    grep -qs $(SONAME) ffmpeg || exit 0; rm -f $(FFMPEG_TOOLS)
	rm -rf $(DESTDIR)$(DATADIR)/demo
	rm -f $(DESTDIR)$(DATADIR)/models.md
	-rmdir $(DESTDIR)$(DATADIR)

# What is committed, as a tarball that builds without git.
DIST = libwan-$(VERSION)
dist:
	@[ -e $(SRC)/.git ] || { echo "dist: $(SRC) is no git clone" >&2; exit 1; }
	@mkdir -p $(B)
	@git -C $(SRC) diff --quiet HEAD -- || \
	    echo "dist: what is not committed is left out" >&2
	git -C $(SRC) archive --prefix=$(DIST)/ HEAD > $(B)/$(DIST).tar.part
	xz -c -1 $(B)/$(DIST).tar.part > $(B)/$(DIST).tar.xz.part
	rm $(B)/$(DIST).tar.part
	mv $(B)/$(DIST).tar.xz.part $(B)/$(DIST).tar.xz
	@ls -l $(B)/$(DIST).tar.xz

# Packages for Debian: libwan's and the distribution's FFmpeg with the filters, in
# DEBS. That takes as long as an FFmpeg takes; deb-libwan is a minute.
DEBS = $(B)/deb
deb-libwan:
	sh $(SRC)/tools/make-deb.sh libwan $(DEBS)
deb:
	sh $(SRC)/tools/packages.sh deb
	$(MAKE) deb-libwan
	sh $(SRC)/tools/make-deb.sh ffmpeg $(DEBS)

# The documents as a static site.
site:
	sh $(SRC)/tools/site.sh $(B)/site

clean:
	rm -rf $(B)
distclean: clean
	rm -f config.mak config.log

help:
	@sed -n '/^#   make/p' $(SRC)/Makefile | sed 's/^# *//'

-include $(shell find $(B)/wan $(B)/tools $(B)/tests -name '*.d' 2>/dev/null)

.PHONY: parity gpu-bundle gpu-bundle-here check-gpu-run gpu-plans all libs tools tests unit checkop model fate judge check-lib check check-all \
        check-lib-built asan check-sanitize check-asan check-tsan check-cuda check-cuda-build \
        check-compile check-arm64 check-whole check-dist check-mpich check-slurm check-numa \
        check-deb check-installed deb deb-libwan site check-threads ffmpeg ffmpeg-minimal demo live fuzz bench bench-ranks man install install-ffmpeg uninstall dist clean \
        distclean help
.SECONDARY:
