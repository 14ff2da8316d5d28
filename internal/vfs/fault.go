package vfs

import (
	"errors"
	"fmt"
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

// Changes reports whether the operation can change what a loss of power leaves.
func (op Op) Changes() bool {
	switch op.Kind {
	case OpOpen:
		return op.Flag&(os.O_CREATE|os.O_TRUNC) != 0
	case OpRemove, OpRename, OpMkdirAll, OpSyncDir, OpWrite, OpSync, OpTruncate:
		return true
	}
	return false
}

// String returns kind, name, and where it matters the second name, or offset
// and size.
func (op Op) String() string {
	switch op.Kind {
	case OpRename:
		return fmt.Sprintf("%v %s to %s", op.Kind, op.Name, op.To)
	case OpRead, OpWrite:
		return fmt.Sprintf("%v %s at %d, %d bytes", op.Kind, op.Name, op.Offset, op.Size)
	case OpTruncate:
		return fmt.Sprintf("%v %s to %d", op.Kind, op.Name, op.Offset)
	}
	return fmt.Sprintf("%v %s", op.Kind, op.Name)
}

// A Fault is an FS that asks before each operation whether it shall fail, and
// counts the files that are open.
type Fault struct {
	fs     FS
	inject func(Op) error
	count  atomic.Int64
	open   atomic.Int64
}

// NewFault wraps fs. inject is called before each operation, by any goroutine;
// an error it returns is the operation's result, and nothing happens, but:
//
//   - with a *Partial, a read or write goes as far as it says;
//   - with a *Late, the operation is carried out, and fails all the same;
//   - a Close that fails closes;
//   - a Sync that fails loses what was dirty, if fs is a Mem: see memNode; with
//     ErrDead, which stands for the end of the process, it loses nothing.
func NewFault(fs FS, inject func(Op) error) *Fault { return &Fault{fs: fs, inject: inject} }

// Count returns how many operations there have been.
func (f *Fault) Count() int64 { return f.count.Load() }

// OpenFiles returns how many files and locks are open.
func (f *Fault) OpenFiles() int64 { return f.open.Load() }

// ErrDead is for a test to inject from the moment on at which the process is to
// have ended: nothing happens any more, and what the system holds stays.
var ErrDead = errors.New("vfs: the process has ended")

// A Partial is the error of a read or write that stopped after N bytes.
type Partial struct {
	N   int
	Err error
}

func (e *Partial) Error() string { return fmt.Sprintf("after %d bytes: %v", e.N, e.Err) }
func (e *Partial) Unwrap() error { return e.Err }

// partial returns how many of size bytes err, of a read or write, lets pass.
func partial(err error, size int) int {
	var p *Partial
	if errors.As(err, &p) {
		return min(p.N, size)
	}
	return 0
}

// A Late is the error of an operation that was carried out before it failed.
type Late struct{ Err error }

func (e *Late) Error() string { return "carried out, and then: " + e.Err.Error() }
func (e *Late) Unwrap() error { return e.Err }

// carriedOut does what a *Late error wants done. What comes of it is dropped.
func carriedOut(err error, do func() error) error {
	var late *Late
	if errors.As(err, &late) {
		_ = do()
	}
	return err
}

func (f *Fault) ask(op Op) error {
	op.Index = f.count.Add(1) - 1
	if f.inject == nil {
		return nil
	}
	return f.inject(op)
}

func (f *Fault) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	if err := f.ask(Op{Kind: OpOpen, Name: name, Flag: flag}); err != nil {
		return nil, carriedOut(err, func() error {
			file, err := f.fs.OpenFile(name, flag, perm)
			if err != nil {
				return err
			}
			return file.Close()
		})
	}
	file, err := f.fs.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	f.open.Add(1)
	return &faultFile{fault: f, name: name, file: file}, nil
}

func (f *Fault) Remove(name string) error {
	if err := f.ask(Op{Kind: OpRemove, Name: name}); err != nil {
		return carriedOut(err, func() error { return f.fs.Remove(name) })
	}
	return f.fs.Remove(name)
}

func (f *Fault) Rename(oldName, newName string) error {
	if err := f.ask(Op{Kind: OpRename, Name: oldName, To: newName}); err != nil {
		return carriedOut(err, func() error { return f.fs.Rename(oldName, newName) })
	}
	return f.fs.Rename(oldName, newName)
}

func (f *Fault) MkdirAll(dir string) error {
	if err := f.ask(Op{Kind: OpMkdirAll, Name: dir}); err != nil {
		return carriedOut(err, func() error { return f.fs.MkdirAll(dir) })
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
		return carriedOut(err, func() error { return f.fs.SyncDir(dir) })
	}
	return f.fs.SyncDir(dir)
}

func (f *Fault) Lock(name string, shared bool) (io.Closer, error) {
	if err := f.ask(Op{Kind: OpLock, Name: name}); err != nil {
		return nil, err
	}
	lock, err := f.fs.Lock(name, shared)
	if err != nil {
		return nil, err
	}
	f.open.Add(1)
	return &faultLock{f, lock}, nil
}

type faultLock struct {
	fault *Fault
	io.Closer
}

func (l *faultLock) Close() error {
	l.fault.open.Add(-1)
	return l.Closer.Close()
}

type faultFile struct {
	fault *Fault
	name  string
	file  File
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fault.ask(Op{Kind: OpRead, Name: f.name, Offset: off, Size: len(p)}); err != nil {
		n, _ := f.file.ReadAt(p[:partial(err, len(p))], off)
		return n, err
	}
	return f.file.ReadAt(p, off)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fault.ask(Op{Kind: OpWrite, Name: f.name, Offset: off, Size: len(p)}); err != nil {
		n, _ := f.file.WriteAt(p[:partial(err, len(p))], off)
		return n, err
	}
	return f.file.WriteAt(p, off)
}

func (f *faultFile) Sync() error {
	if err := f.fault.ask(Op{Kind: OpSync, Name: f.name}); err != nil {
		if file, ok := f.file.(interface{ FailSync() }); ok && !errors.Is(err, ErrDead) {
			file.FailSync()
		}
		return err
	}
	return f.file.Sync()
}

func (f *faultFile) Truncate(size int64) error {
	if err := f.fault.ask(Op{Kind: OpTruncate, Name: f.name, Offset: size}); err != nil {
		return carriedOut(err, func() error { return f.file.Truncate(size) })
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
	f.fault.open.Add(-1)
	err := f.fault.ask(Op{Kind: OpClose, Name: f.name})
	if cerr := f.file.Close(); err == nil {
		err = cerr
	}
	return err
}
