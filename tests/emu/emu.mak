# The kernels as plain C++ on the host: no card and no nvcc, a C++17 compiler.
# Included by the Makefile.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
#   make emu       checkop on the emulated kernels; attention and convolution,
#                  and how they ask cuDNN

EMU_KERNELS = norm rope elem image noise quant
EMU = $(addprefix $(B)/tests/emu/,checkop_emu attention conv entries)
ifeq ($(CUDA),yes)      # what wants cuDNN's and cuBLASLt's headers
EMU_HEADERS = $(addprefix $(B)/tests/emu/,cudnn_choice linear)
EMU += $(EMU_HEADERS)
endif

# Before the flags of a build with CUDA: its runtime's header is played here.
EMU_DIRS = -I$(SRC)/tests/emu -I$(SRC)/tests -I$(SRC)/wan/cuda
EMU_CXX = $(CXX) -std=c++17 $(EMU_DIRS) $(ALL_FLAGS) -O1 -Wno-unknown-pragmas \
          $(CFLAGS)

$(B)/tests/emu/kernels/%.o: $(SRC)/wan/cuda/%.cu config.mak
	@mkdir -p $(@D)
	$(EMU_CXX) -x c++ -c $< -o $@
$(B)/tests/emu/%.o: $(SRC)/tests/emu/%.cpp config.mak
	@mkdir -p $(@D)
	$(EMU_CXX) -c $< -o $@
$(B)/tests/emu/%.o: $(SRC)/tests/emu/%.c config.mak
	@mkdir -p $(@D)
	$(CC) -std=c11 -D_GNU_SOURCE $(EMU_DIRS) $(ALL_FLAGS) $(CFLAGS) -c $< -o $@

# The devices without CUDA's, whatever the build has: this object comes before
# the library, whose own is then not taken.
$(B)/tests/emu/dev.o: $(SRC)/wan/dev.c config.mak
	@mkdir -p $(@D)
	$(C) -UWAN_HAVE_CUDA -DWAN_HAVE_CUDA=0 -c $< -o $@

EMU_LINK = $(CXX) -o $@ $^ $(CONFIG_LINK) $(LDFLAGS) $(DEP_LIBS) -lm -lpthread

$(B)/tests/emu/checkop_emu: \
    $(addprefix $(B)/tests/emu/,checkop_emu.o backend.o emu.o dev.o) \
    $(EMU_KERNELS:%=$(B)/tests/emu/kernels/%.o) $(B)/lib/libwan.a
	$(EMU_LINK)
$(B)/tests/emu/attention: $(B)/tests/emu/attention.o $(B)/tests/emu/emu.o \
    $(B)/tests/emu/dev.o $(B)/tests/emu/kernels/flash.o $(B)/lib/libwan.a
	$(EMU_LINK)
$(B)/tests/emu/conv: $(B)/tests/emu/conv.o $(B)/tests/emu/emu.o \
    $(B)/tests/emu/dev.o $(B)/tests/emu/kernels/conv_own.o $(B)/lib/libwan.a
	$(EMU_LINK)

# The entries of both, with a stand-in for cuDNN that is asked for little too.
$(addprefix $(B)/tests/emu/kernels/,attention.o conv.o): \
    $(B)/tests/emu/kernels/%.o: $(SRC)/wan/cuda/%.c config.mak
	@mkdir -p $(@D)
	$(CC) -std=c11 -D_GNU_SOURCE $(EMU_DIRS) $(ALL_FLAGS) -DLARGE=1e5 \
	    $(CFLAGS) -c $< -o $@
$(B)/tests/emu/entries: $(addprefix $(B)/tests/emu/,entries.o emu.o dev.o) \
    $(addprefix $(B)/tests/emu/kernels/,attention.o conv.o flash.o conv_own.o) \
    $(B)/lib/libwan.a
	$(EMU_LINK)

# linear.c and weights.c, on a library of the test's in cuBLASLt's place.
$(B)/tests/emu/linear.o: $(SRC)/tests/emu/linear.c config.mak
	@mkdir -p $(@D)
	$(C) $(CUDA_CFLAGS) -c $< -o $@
$(B)/tests/emu/kernels/linear.o: $(SRC)/wan/cuda/linear.c config.mak
	@mkdir -p $(@D)
	$(C) $(CUDA_CFLAGS) -DPASS_ROWS=24 -c $< -o $@
$(B)/tests/emu/linear: $(addprefix $(B)/tests/emu/,linear.o emu.o dev.o) \
    $(addprefix $(B)/tests/emu/kernels/,linear.o linear_own.o quant.o) \
    $(B)/wan/cuda/weights.o $(B)/lib/libwan.a
	$(EMU_LINK) -rdynamic -ldl

# cudnn.c itself, on a library of the test's in cuDNN's place.
$(B)/tests/emu/cudnn_choice.o: $(SRC)/tests/emu/cudnn_choice.c config.mak
	@mkdir -p $(@D)
	$(C) $(CUDA_CFLAGS) -c $< -o $@
$(B)/tests/emu/cudnn_choice: $(B)/tests/emu/cudnn_choice.o \
    $(B)/wan/cuda/cudnn.o $(B)/wan/log.o
	$(CC) -rdynamic -o $@ $^ $(CONFIG_LINK) $(LDFLAGS) $(DEP_LIBS) -ldl -lpthread -lm

emu: $(EMU)
	@$(RUN) $^

.PHONY: emu
