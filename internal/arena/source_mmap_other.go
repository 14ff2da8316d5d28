//go:build darwin && !race && !pulkdebug

package arena

import "unsafe"

func adviseHuge(unsafe.Pointer, int) {}
