#include "fakeav.h"
