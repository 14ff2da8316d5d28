package vfs

import (
	"io"
	"os"
	"sync/atomic"
)

// An OpKind says which operation an Op is.
type OpKind uint8

// The operations that a Fault sees.
const (
	OpOpen OpKind = iota + 1
	OpRemove
	OpRename
	OpMkdirAll
	OpReadDir
	OpStat
	OpSyncDir
	OpLock
	OpRead
	OpWrite
	OpSync
	OpTruncate
	OpSize
	OpClose
)

var opNames = [...]string{"", "open", "remove", "rename", "mkdirall", "readdir", "stat", "syncdir", "lock",
	"read", "write", "sync", "truncate", "size", "close"}

// String returns the name of the operation in lower case.
func (k OpKind) String() string { return opNames[k] }

// An Op is one file operation about to happen.
type Op struct {
	Kind   OpKind
	Index  int64  // counts the operations of one Fault, from 0
	Name   string // the file, or the old name of a rename
	To     string // the new name of a rename
	Flag   int    // of an open
	Offset int64  // of a read or write
	Size   int    // bytes of a read or write
}

// A Fault is an FS that asks before each operation whether it shall fail.
type Fault struct {
	fs     FS
	inject func(Op) error
	count  atomic.Int64
}

// NewFault wraps fs. inject is called before each operation, by any goroutine;
// an error it returns is the operation's result, and nothing happens.
func NewFault(fs FS, inject func(Op) error) *Fault { return &Fault{fs: fs, inject: inject} }

// Count returns how many operations there have been.
func (f *Fault) Count() int64 { return f.count.Load() }

func (f *Fault) ask(op Op) error {
	op.Index = f.count.Add(1) - 1
	if f.inject == nil {
		return nil
	}
	return f.inject(op)
}

func (f *Fault) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	if err := f.ask(Op{Kind: OpOpen, Name: name, Flag: flag}); err != nil {
		return nil, err
	}
	file, err := f.fs.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{fault: f, name: name, file: file}, nil
}

func (f *Fault) Remove(name string) error {
	if err := f.ask(Op{Kind: OpRemove, Name: name}); err != nil {
		return err
	}
	return f.fs.Remove(name)
}

func (f *Fault) Rename(oldName, newName string) error {
	if err := f.ask(Op{Kind: OpRename, Name: oldName, To: newName}); err != nil {
		return err
	}
	return f.fs.Rename(oldName, newName)
}

func (f *Fault) MkdirAll(dir string) error {
	if err := f.ask(Op{Kind: OpMkdirAll, Name: dir}); err != nil {
		return err
	}
	return f.fs.MkdirAll(dir)
}

func (f *Fault) ReadDir(dir string) ([]string, error) {
	if err := f.ask(Op{Kind: OpReadDir, Name: dir}); err != nil {
		return nil, err
	}
	return f.fs.ReadDir(dir)
}

func (f *Fault) Stat(name string) (int64, bool, error) {
	if err := f.ask(Op{Kind: OpStat, Name: name}); err != nil {
		return 0, false, err
	}
	return f.fs.Stat(name)
}

func (f *Fault) SyncDir(dir string) error {
	if err := f.ask(Op{Kind: OpSyncDir, Name: dir}); err != nil {
		return err
	}
	return f.fs.SyncDir(dir)
}

func (f *Fault) Lock(name string, shared bool) (io.Closer, error) {
	if err := f.ask(Op{Kind: OpLock, Name: name}); err != nil {
		return nil, err
	}
	return f.fs.Lock(name, shared)
}

type faultFile struct {
	fault *Fault
	name  string
	file  File
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fault.ask(Op{Kind: OpRead, Name: f.name, Offset: off, Size: len(p)}); err != nil {
		return 0, err
	}
	return f.file.ReadAt(p, off)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fault.ask(Op{Kind: OpWrite, Name: f.name, Offset: off, Size: len(p)}); err != nil {
		return 0, err
	}
	return f.file.WriteAt(p, off)
}

func (f *faultFile) Sync() error {
	if err := f.fault.ask(Op{Kind: OpSync, Name: f.name}); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *faultFile) Truncate(size int64) error {
	if err := f.fault.ask(Op{Kind: OpTruncate, Name: f.name, Offset: size}); err != nil {
		return err
	}
	return f.file.Truncate(size)
}

func (f *faultFile) Size() (int64, error) {
	if err := f.fault.ask(Op{Kind: OpSize, Name: f.name}); err != nil {
		return 0, err
	}
	return f.file.Size()
}

// Close closes the file even when it is told to fail: no descriptor leaks.
func (f *faultFile) Close() error {
	err := f.fault.ask(Op{Kind: OpClose, Name: f.name})
	if cerr := f.file.Close(); err == nil {
		err = cerr
	}
	return err
}
