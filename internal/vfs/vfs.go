package vfs

import (
	"errors"
	"io"
	"os"
)

// ErrLocked is returned by FS.Lock when somebody else, in this process or
// another, holds the lock.
var ErrLocked = errors.New("vfs: file is locked")

// An FS is a set of directories and files. Errors satisfy errors.Is with
// fs.ErrNotExist and fs.ErrExist as those of package os do.
type FS interface {
	// OpenFile is os.OpenFile.
	OpenFile(name string, flag int, perm os.FileMode) (File, error)
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// Rename moves a file; a file of the new name is replaced.
	Rename(oldName, newName string) error
	// MkdirAll creates a directory and its parents; it may exist.
	MkdirAll(dir string) error
	// ReadDir returns the names in a directory, sorted.
	ReadDir(dir string) ([]string, error)
	// Stat returns size and kind of a file.
	Stat(name string) (size int64, isDir bool, err error)
	// SyncDir makes the names in a directory durable. It does nothing where
	// the system offers no such thing.
	SyncDir(dir string) error
	// Lock takes the lock that the file name stands for, without waiting:
	// ErrLocked when it is held. A shared lock suffers other shared ones and
	// needs the file to exist; an exclusive one creates it. Two locks taken by
	// one process conflict like those of two. Closing releases it.
	Lock(name string, shared bool) (io.Closer, error)
}

// A File is an open file without a current position.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes contents and size durable (fdatasync where there is one).
	Sync() error
	Truncate(size int64) error
	Size() (int64, error)
	io.Closer
}
