# Finds roipool's operators for C++:
#
#   find_package(roipool REQUIRED)
#   target_link_libraries(program roipool::roipool)
#
# with torch.utils.cmake_prefix_path and roipool.cmake_prefix_path of Python in CMAKE_PREFIX_PATH. The program then loads
# the operators when it starts, for modules and packages that use them; <roipool/ops.h> calls them.
include(CMakeFindDependencyMacro)
if(NOT TARGET torch)
  find_dependency(Torch)
endif()

get_filename_component(_roipool_folder "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT EXISTS "${_roipool_folder}/libroipool.so")
  set(roipool_FOUND FALSE)
  set(roipool_NOT_FOUND_MESSAGE "roipool is not built: there is no libroipool.so in ${_roipool_folder}")
  return()
endif()

if(NOT TARGET roipool::roipool)
  # Without --no-as-needed, linkers leave out libraries that a program calls no function of.
  add_library(roipool::roipool INTERFACE IMPORTED)
  target_include_directories(roipool::roipool INTERFACE "${_roipool_folder}/include")
  target_compile_features(roipool::roipool INTERFACE cxx_std_17)
  target_link_libraries(roipool::roipool INTERFACE torch "-Wl,--push-state,--no-as-needed")
  set(_roipool_libraries roipool)
  if(TARGET torch_cuda AND EXISTS "${_roipool_folder}/libroipool_cuda.so")
    list(APPEND _roipool_libraries roipool_cuda)
  endif()
  foreach(_roipool_library IN LISTS _roipool_libraries)
    add_library(roipool::lib${_roipool_library} SHARED IMPORTED)
    set_target_properties(roipool::lib${_roipool_library} PROPERTIES
      IMPORTED_LOCATION "${_roipool_folder}/lib${_roipool_library}.so"
      IMPORTED_SONAME "lib${_roipool_library}.so")
    target_link_libraries(roipool::roipool INTERFACE roipool::lib${_roipool_library})
  endforeach()
  target_link_libraries(roipool::roipool INTERFACE "-Wl,--pop-state")
endif()
