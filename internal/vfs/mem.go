package vfs

import (
	"io"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// A Mem is a file system in memory that knows what would survive a power loss.
//
// Of each file it keeps what the system shows, what the medium has, and every
// version in between of each sector and of the size; of the directories the
// current names, the durable ones, and the changes in between, in order. See
// CrashClone for what a loss of power makes of that, and memfile.go for what a
// failed sync does.
type Mem struct {
	mu      sync.Mutex
	names   map[string]*memNode // Guarded by mu. Current, directories among them.
	durable map[string]*memNode // Guarded by mu. After the last SyncDir.
	pending []nameOp            // Guarded by mu. Between the two, oldest first.
	locks   map[string]int      // Guarded by mu. -1: exclusive; else how many share.
	rnd     *rand.Rand          // Guarded by mu. Decides what is lost when a sync fails.
}

// A nameOp is one change of a directory: node nil removes name. A rename is one
// change with from set, so that it survives whole or not at all.
type nameOp struct {
	name string
	from string
	node *memNode
}

func (op nameOp) applyTo(names map[string]*memNode) {
	if op.from != "" && names[op.from] == op.node {
		delete(names, op.from)
	}
	if op.node == nil {
		delete(names, op.name)
	} else {
		names[op.name] = op.node
	}
}

// NewMem returns an empty file system with a root and a working directory.
func NewMem() *Mem {
	m := &Mem{
		names:   map[string]*memNode{},
		durable: map[string]*memNode{},
		locks:   map[string]int{},
		rnd:     rand.New(rand.NewSource(1)),
	}
	for _, dir := range []string{".", string(filepath.Separator)} {
		node := &memNode{dir: true}
		m.names[dir], m.durable[dir] = node, node
	}
	return m
}

// Seed fixes what failed syncs will lose.
func (m *Mem) Seed(seed int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rnd = rand.New(rand.NewSource(seed))
}

func pathError(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

func (m *Mem) isDir(name string) bool { return m.names[name] != nil && m.names[name].dir }

func (m *Mem) OpenFile(name string, flag int, _ os.FileMode) (File, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[name]
	switch {
	case m.isDir(name):
		return nil, pathError("open", name, fs.ErrInvalid)
	case node != nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, pathError("open", name, fs.ErrExist)
	case node == nil && (flag&os.O_CREATE == 0 || !m.isDir(filepath.Dir(name))):
		return nil, pathError("open", name, fs.ErrNotExist)
	case node == nil:
		node = newMemNode(nil)
		m.change(nameOp{name: name, node: node})
	}
	if flag&os.O_TRUNC != 0 {
		node.resize(0)
	}
	return &memFile{fs: m, name: name, node: node, writable: flag&(os.O_WRONLY|os.O_RDWR) != 0}, nil
}

func (m *Mem) change(op nameOp) {
	op.applyTo(m.names)
	m.pending = append(m.pending, op)
}

func (m *Mem) Remove(name string) error {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.names[name] == nil:
		return pathError("remove", name, fs.ErrNotExist)
	case m.isDir(name) && len(m.list(name)) > 0:
		return pathError("remove", name, fs.ErrExist)
	}
	m.change(nameOp{name: name})
	return nil
}

func (m *Mem) Rename(oldName, newName string) error {
	oldName, newName = filepath.Clean(oldName), filepath.Clean(newName)
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[oldName]
	switch {
	case node == nil || !m.isDir(filepath.Dir(newName)):
		return pathError("rename", oldName, fs.ErrNotExist)
	case node.dir || m.isDir(newName):
		return pathError("rename", oldName, fs.ErrInvalid)
	case oldName != newName:
		m.change(nameOp{name: newName, from: oldName, node: node})
	}
	return nil
}

func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var missing []string
	for dir = filepath.Clean(dir); !m.isDir(dir); dir = filepath.Dir(dir) {
		if m.names[dir] != nil {
			return pathError("mkdir", dir, fs.ErrExist)
		}
		missing = append(missing, dir)
	}
	for _, dir := range slices.Backward(missing) {
		m.change(nameOp{name: dir, node: &memNode{dir: true}})
	}
	return nil
}

func (m *Mem) ReadDir(dir string) ([]string, error) {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.isDir(dir) {
		return nil, pathError("readdir", dir, fs.ErrNotExist)
	}
	return m.list(dir), nil
}

func (m *Mem) list(dir string) []string {
	var names []string
	for name := range m.names {
		if name != dir && filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names
}

func (m *Mem) Stat(name string) (int64, bool, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[name]
	if node == nil {
		return 0, false, pathError("stat", name, fs.ErrNotExist)
	}
	return int64(len(node.data)), node.dir, nil
}

func (m *Mem) SyncDir(dir string) error {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.isDir(dir) {
		return pathError("syncdir", dir, fs.ErrNotExist)
	}
	m.pending = slices.DeleteFunc(m.pending, func(op nameOp) bool {
		if filepath.Dir(op.name) != dir {
			return false
		}
		op.applyTo(m.durable)
		return true
	})
	return nil
}

func (m *Mem) Lock(name string, shared bool) (io.Closer, error) {
	name = filepath.Clean(name)
	flag := os.O_RDWR | os.O_CREATE
	if shared {
		flag = os.O_RDONLY
	}
	if _, err := m.OpenFile(name, flag, 0); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	held := m.locks[name]
	if held < 0 || (held > 0 && !shared) {
		return nil, ErrLocked
	}
	if shared {
		m.locks[name] = held + 1
	} else {
		m.locks[name] = -1
	}
	return &memLock{fs: m, name: name, shared: shared}, nil
}

type memLock struct {
	fs     *Mem
	name   string
	shared bool
	once   sync.Once
}

func (l *memLock) Close() error {
	l.once.Do(func() {
		l.fs.mu.Lock()
		defer l.fs.mu.Unlock()
		if l.shared {
			l.fs.locks[l.name]--
		} else {
			l.fs.locks[l.name] = 0
		}
	})
	return nil
}

// Kill gives up all locks, as the end of the process that holds them would.
func (m *Mem) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.locks)
}

// Corrupt flips one bit of the byte at off of a file, synced contents included:
// what a failing disk does. It reports whether there was such a byte.
func (m *Mem) Corrupt(name string, off int64, bit uint8) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[filepath.Clean(name)]
	if node == nil || off >= int64(len(node.data)) {
		return false
	}
	node.data[off] ^= 1 << (bit % 8)
	if off < int64(len(node.disk)) {
		node.disk[off] ^= 1 << (bit % 8)
	}
	return true
}

// sortedNames returns the names of files and directories.
func sortedNames(names map[string]*memNode) []string {
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	return sorted
}

// String lists the names, for a failing test.
func (m *Mem) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(sortedNames(m.names), "\n") + "\n"
}

// Export writes what the system shows into a directory of the real file system,
// so that a store which a test found wrong can be looked at.
func (m *Mem) Export(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range sortedNames(m.names) {
		node, target := m.names[name], filepath.Join(dir, name)
		err := error(nil)
		if node.dir {
			err = os.MkdirAll(target, 0o777)
		} else {
			err = os.WriteFile(target, node.data, 0o666)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
