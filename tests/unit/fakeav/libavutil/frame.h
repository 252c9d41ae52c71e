#include "../fakeav.h"
