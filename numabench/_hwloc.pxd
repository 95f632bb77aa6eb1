# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
# Declarations of libhwloc as its headers have them (2.4 or newer), only what _hwloc.pyx uses.

from libc.stdint cimport uint64_t

cdef extern from "<stdlib.h>" nogil:
    char *getenv(const char *name)
    int setenv(const char *name, const char *value, int overwrite)
    int unsetenv(const char *name)

cdef extern from "<hwloc.h>" nogil:
    ctypedef struct hwloc_bitmap_s:
        pass
    ctypedef hwloc_bitmap_s *hwloc_bitmap_t
    ctypedef const hwloc_bitmap_s *hwloc_const_bitmap_t
    hwloc_bitmap_t hwloc_bitmap_alloc()
    void hwloc_bitmap_free(hwloc_bitmap_t)
    int hwloc_bitmap_next(hwloc_const_bitmap_t, int)
    int hwloc_bitmap_weight(hwloc_const_bitmap_t)

    ctypedef enum hwloc_obj_type_t:
        HWLOC_OBJ_PACKAGE, HWLOC_OBJ_CORE, HWLOC_OBJ_PU, HWLOC_OBJ_NUMANODE, HWLOC_OBJ_MEMCACHE
        HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L5CACHE, HWLOC_OBJ_L1ICACHE, HWLOC_OBJ_L3ICACHE
        HWLOC_OBJ_BRIDGE, HWLOC_OBJ_PCI_DEVICE, HWLOC_OBJ_OS_DEVICE, HWLOC_OBJ_MISC
    ctypedef enum hwloc_type_filter_e:
        HWLOC_TYPE_FILTER_KEEP_ALL, HWLOC_TYPE_FILTER_KEEP_NONE, HWLOC_TYPE_FILTER_KEEP_IMPORTANT
    enum:
        HWLOC_TYPE_DEPTH_NUMANODE, HWLOC_TYPE_DEPTH_OS_DEVICE, HWLOC_TYPE_DEPTH_PCI_DEVICE
        HWLOC_UNKNOWN_INDEX, HWLOC_API_VERSION
        HWLOC_OBJ_CACHE_UNIFIED, HWLOC_OBJ_CACHE_DATA
        HWLOC_OBJ_OSDEV_BLOCK, HWLOC_OBJ_OSDEV_GPU, HWLOC_OBJ_OSDEV_NETWORK
        HWLOC_OBJ_OSDEV_OPENFABRICS, HWLOC_OBJ_OSDEV_DMA
        HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED
        HWLOC_DISTANCES_KIND_FROM_OS, HWLOC_DISTANCES_KIND_MEANS_LATENCY
        HWLOC_MEMATTR_FLAG_NEED_INITIATOR, HWLOC_LOCATION_TYPE_CPUSET

    struct hwloc_memory_page_type_s:
        uint64_t size
        uint64_t count
    struct hwloc_numanode_attr_s:
        uint64_t local_memory
        unsigned page_types_len
        hwloc_memory_page_type_s *page_types
    struct hwloc_cache_attr_s:
        uint64_t size
        unsigned depth
        unsigned linesize
        int type
    struct hwloc_pcidev_attr_s:
        unsigned domain
        unsigned bus
        unsigned dev
        unsigned func
        unsigned class_id
    struct hwloc_osdev_attr_s:
        int type
    union hwloc_obj_attr_u:
        hwloc_numanode_attr_s numanode
        hwloc_cache_attr_s cache
        hwloc_pcidev_attr_s pcidev
        hwloc_osdev_attr_s osdev
    struct hwloc_info_s:
        char *name
        char *value
    struct hwloc_obj:
        hwloc_obj_type_t type
        char *subtype
        unsigned os_index
        char *name
        hwloc_obj_attr_u *attr
        hwloc_obj *parent
        hwloc_obj *io_first_child
        hwloc_bitmap_t cpuset
        hwloc_bitmap_t complete_cpuset
        hwloc_bitmap_t nodeset
        hwloc_info_s *infos
        unsigned infos_count
    ctypedef hwloc_obj *hwloc_obj_t
    ctypedef struct hwloc_topology:
        pass
    ctypedef hwloc_topology *hwloc_topology_t

    unsigned hwloc_get_api_version()
    int hwloc_topology_init(hwloc_topology_t *)
    void hwloc_topology_destroy(hwloc_topology_t)
    int hwloc_topology_set_flags(hwloc_topology_t, unsigned long)
    int hwloc_topology_set_xmlbuffer(hwloc_topology_t, const char *, int)
    int hwloc_topology_set_all_types_filter(hwloc_topology_t, hwloc_type_filter_e)
    int hwloc_topology_set_io_types_filter(hwloc_topology_t, hwloc_type_filter_e)
    int hwloc_topology_load(hwloc_topology_t)
    int hwloc_topology_get_depth(hwloc_topology_t)
    unsigned hwloc_get_nbobjs_by_depth(hwloc_topology_t, int)
    hwloc_obj_t hwloc_get_obj_by_depth(hwloc_topology_t, int, unsigned)
    hwloc_obj_t hwloc_get_root_obj(hwloc_topology_t)
    hwloc_obj_t hwloc_get_non_io_ancestor_obj(hwloc_topology_t, hwloc_obj_t)
    hwloc_const_bitmap_t hwloc_topology_get_allowed_cpuset(hwloc_topology_t)
    hwloc_const_bitmap_t hwloc_topology_get_allowed_nodeset(hwloc_topology_t)

cdef extern from "<hwloc/distances.h>" nogil:
    struct hwloc_distances_s:
        unsigned nbobjs
        hwloc_obj_t *objs
        uint64_t *values
    int hwloc_distances_get_by_depth(hwloc_topology_t, int, unsigned *, hwloc_distances_s **, unsigned long,
                                     unsigned long)
    void hwloc_distances_release(hwloc_topology_t, hwloc_distances_s *)

cdef extern from "<hwloc/memattrs.h>" nogil:
    union hwloc_location_u:
        hwloc_bitmap_t cpuset
        hwloc_obj_t object
    struct hwloc_location:
        int type
        hwloc_location_u location
    int hwloc_memattr_get_name(hwloc_topology_t, unsigned, const char **)
    int hwloc_memattr_get_flags(hwloc_topology_t, unsigned, unsigned long *)
    int hwloc_memattr_get_initiators(hwloc_topology_t, unsigned, hwloc_obj_t, unsigned long, unsigned *,
                                     hwloc_location *, uint64_t *)

cdef extern from "<hwloc/cpukinds.h>" nogil:
    int hwloc_cpukinds_get_nr(hwloc_topology_t, unsigned long)
    int hwloc_cpukinds_get_info(hwloc_topology_t, unsigned, hwloc_bitmap_t, int *, unsigned *, hwloc_info_s **,
                                unsigned long)
