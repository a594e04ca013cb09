"""Bugs in what interprets coordinates."""

from bugs.bug import AGAINST_REFERENCE, FUNCTIONAL, GEOMETRY, KERNELS, LEVELS, OPERATORS_H, Bug

BUGS = [
    # ---- Coordinates.
    Bug("halves are rounded to even", GEOMETRY, "std::round(clamped)", "std::nearbyint(clamped)", KERNELS, True),
    Bug("halves are rounded up", GEOMETRY, "std::round(clamped)", "std::floor(clamped + T(0.5))", KERNELS, True),
    Bug(
        "a region that ends just before its start has no cell", GEOMETRY, "size < 1 ? 1", "size < 0 ? 1", KERNELS, True
    ),
    Bug(
        "a bin's start is rounded once more",
        GEOMETRY,
        "static_cast<int32_t>(std::floor(static_cast<T>(index) * bin_size)) + start",
        "static_cast<int32_t>(std::floor(static_cast<T>(index) * bin_size + start))",
        KERNELS,
    ),
    Bug(
        "a bin's end is rounded once more",
        GEOMETRY,
        "static_cast<int32_t>(std::ceil(static_cast<T>(index + 1) * bin_size)) + start",
        "static_cast<int32_t>(std::ceil(static_cast<T>(index + 1) * bin_size + start))",
        KERNELS,
    ),
    Bug(
        "a bin's end is exact",
        GEOMETRY,
        "std::ceil(static_cast<T>(index + 1) * bin_size)",
        "std::ceil(static_cast<double>(index + 1) * bin_size)",
        KERNELS,
    ),
    Bug(
        "a division by a reciprocal",
        GEOMETRY,
        "(size < 1 ? 1 : size) / static_cast<T>(num_bins)",
        "(size < 1 ? 1 : size) * (T(1) / static_cast<T>(num_bins))",
        KERNELS,
    ),
    Bug(
        "an infinite coordinate is clamped",
        GEOMETRY,
        "!std::isfinite(coordinate) || std::isnan(scaled)",
        "std::isnan(scaled)",
        KERNELS,
    ),
    Bug(
        "a product that overflows is no coordinate",
        GEOMETRY,
        "!std::isfinite(coordinate) || std::isnan(scaled)",
        "!std::isfinite(scaled)",
        (f"{FUNCTIONAL}::test_unusual_scales", *KERNELS),
    ),
    Bug(
        "coordinates are clamped to 2^28",
        GEOMETRY,
        "T(536870912)",
        "T(268435456)",
        (f"{AGAINST_REFERENCE}::test_scaled_coordinates_are_clamped_to_2_to_the_29", *KERNELS),
    ),
    Bug(
        "batch indices are rounded down",
        GEOMETRY,
        "const int64_t image = static_cast<int64_t>(index);",
        "const int64_t image = static_cast<int64_t>(std::floor(index));",
        KERNELS,
    ),
    Bug("an image too many", GEOMETRY, "image < num_images ?", "image <= num_images ?", KERNELS),
    Bug(
        "an area on a bound belongs below",
        GEOMETRY,
        "area >= static_cast<T>",
        "area > static_cast<T>",
        LEVELS,
    ),
    Bug(
        "a malformed region has the area of its mirror image",
        GEOMETRY,
        "const T area = (roi[3] - roi[1]) * (roi[4] - roi[2]);",
        "const T area = std::abs((roi[3] - roi[1]) * (roi[4] - roi[2]));",
        LEVELS,
    ),
    Bug("bounds without 1e-6", GEOMETRY, " + static_cast<T>(1e-6)", "", LEVELS),
    Bug(
        "a bound that is hit exactly is missed",
        GEOMETRY,
        "static_cast<T>(1e-6) >= static_cast<T>(level)",
        "static_cast<T>(1e-6) > static_cast<T>(level)",
        LEVELS,
    ),
    Bug(
        "bounds of float64 for float32 boxes",
        GEOMETRY,
        "rois_are_double ? level_bound_as<double> : level_bound_as<float>",
        "level_bound_as<double>",
        LEVELS,
    ),
    Bug(
        "the first level is rounded down",
        OPERATORS_H,
        "std::nearbyint(-std::log2(",
        "std::floor(-std::log2(",
        LEVELS,
    ),
]
