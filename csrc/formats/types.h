// The types of all formats of formats.inc.
#pragma once

#include "formats/floats.h"
#include "formats/q4.h"
#include "formats/q8.h"
#include "formats/uniform.h"
