//go:build !(linux || darwin) || race || pulkdebug

package arena

import "unsafe"

const chunkShift = 20 // 1 MiB

// mapMemory returns n bytes of the Go heap. The chunk table keeps them alive.
// REQUIRES: n is a multiple of 8.
func mapMemory(n int) unsafe.Pointer {
	return unsafe.Pointer(unsafe.SliceData(make([]uint64, n/8)))
}

// unmapMemory leaves p to the collector.
func unmapMemory(unsafe.Pointer, int) {}

// releaseMemory does nothing: the collector takes no part of an object.
func releaseMemory(unsafe.Pointer, int) bool { return false }
