//go:build !linux

package vfs

import "os"

// syncFile is File.Sync, which on darwin is F_FULLFSYNC.
func syncFile(f *os.File) error { return f.Sync() }
