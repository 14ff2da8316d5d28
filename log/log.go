package log

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/pulkdb/db/internal/vfs"
)

// A Log is an open log. Open makes one, Replay tells what is in it, Start lets
// it be written, Close ends it. After Start all methods but Close may be called
// by many goroutines at once.
//
// Lock order: syncMu is never held together with another. The role "syncing"
// comes before the mutex writing, that before the mutexes of segments, handles
// and files.
type Log struct {
	// Immutable after Open.
	options      Options
	fs           vfs.FS
	lock         io.Closer
	storeID      [16]byte
	segmentBytes uint64
	bufferBytes  int
	maxRecord    int
	queueMax     int64
	found        []*foundSegment // in LSN order
	leftovers    []string        // files of ours without contents that matter
	headless     []headless      // segment files whose header cannot be read
	farthest     string          // the file that says where the log goes on

	// Owned by Replay, then Start. Immutable after it.
	recoveredEnd  [streams]LSN
	recoveredLast [streams]*segment
	unsynced      []*segment // recovered, written back, and not synced yet
	dead          []string   // files behind the end of the log
	discounted    *CorruptError
	replayed      bool
	incarnation   uint64 // of this log; before Start, of the last that wrote
	seed          seed

	// Atomic.
	started     atomic.Bool
	closed      atomic.Bool
	failure     atomic.Pointer[failure] // the latched one
	refusal     atomic.Pointer[failure] // why nothing can be reserved
	nextSegment atomic.Uint64
	table       table
	metrics     metrics

	streams [streams]stream
	slabs   *slabPool
	handles handleCache
	files   freeFiles

	// writing is held to write to files; it makes its holder the owner of the
	// streams' heads.
	writing sync.Mutex

	syncMu     sync.Mutex
	synced     *sync.Cond // a round ended
	syncing    bool       // Guarded by syncMu. Who sets it syncs.
	syncClosed bool       // Guarded by syncMu.

	spaceMu sync.Mutex
	space   *sync.Cond // buffers were written

	groupsMu sync.Mutex
	groups   map[*Group]struct{} // Guarded by groupsMu. Unfinished, or not below the completed prefix yet.

	goroutines   sync.WaitGroup
	quit         chan struct{}
	flusherKick  chan struct{}
	syncerKick   chan struct{}
	markKick     chan struct{}
	preparerKick chan struct{}
}

// Open opens the log in Options.Dir, which it creates unless ReadOnly. Errors:
// ErrLocked, ErrNotStore, ErrVersion, *CorruptError, or what the file system
// answered.
func Open(o Options) (_ *Log, err error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	l := &Log{
		options:      o,
		fs:           o.FS,
		segmentBytes: uint64(o.SegmentBytes),
		groups:       map[*Group]struct{}{},
		quit:         make(chan struct{}),
		flusherKick:  make(chan struct{}, 1),
		syncerKick:   make(chan struct{}, 1),
		markKick:     make(chan struct{}, 1),
		preparerKick: make(chan struct{}, 1),
	}
	l.synced = sync.NewCond(&l.syncMu)
	l.space = sync.NewCond(&l.spaceMu)
	l.refusal.Store(&failure{fmt.Errorf("%w: not started", ErrState)})
	if o.ReadOnly {
		l.refusal.Store(&failure{ErrReadOnly})
	}
	l.nextSegment.Store(1)
	if !o.Discard {
		defer func() {
			if err != nil && l.lock != nil {
				_ = l.lock.Close()
			}
		}()
		if err := l.openDir(); err != nil {
			return nil, err
		}
		if err := l.scan(); err != nil {
			return nil, err
		}
	}
	l.bufferBytes = min(o.BufferBytes, int(l.segmentBytes)-headerBytes)
	l.maxRecord = l.bufferBytes - recordGroupHeaderBytes
	l.queueMax = int64(o.Buffers) * int64(l.bufferBytes)
	return l, nil
}

// openDir locks the directory and reads or creates the identity file.
func (l *Log) openDir() error {
	if !l.options.ReadOnly {
		if err := l.fs.MkdirAll(l.options.Dir); err != nil {
			return err
		}
	}
	if _, err := l.checkDir(); err != nil {
		return err
	}
	lock, err := l.fs.Lock(l.path(lockName), l.options.ReadOnly)
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("%w: %s", ErrLocked, l.options.Dir)
	}
	if err != nil {
		return err
	}
	l.lock = lock
	// Once more: another one may have created the store meanwhile.
	exists, err := l.checkDir()
	if err != nil {
		return err
	}
	var id identity
	if exists {
		if id, err = l.readIdentity(); err != nil {
			return err
		}
	} else {
		id.segmentBytes, id.nextSegment = l.segmentBytes, 1
		if _, err := rand.Read(id.storeID[:]); err != nil {
			return err
		}
		if err := l.syncParents(); err != nil {
			return err
		}
		if err := l.writeIdentity(id); err != nil {
			return err
		}
	}
	l.storeID, l.segmentBytes, l.incarnation = id.storeID, id.segmentBytes, id.incarnation
	l.raiseNextSegment(id.nextSegment, identityName)
	return nil
}

// syncParents makes the directory of a new store durable, and all above it: an
// earlier Open may have made any of them and ended before it could sync them.
func (l *Log) syncParents() error {
	for dir := filepath.Clean(l.options.Dir); dir != filepath.Dir(dir); {
		dir = filepath.Dir(dir)
		err := l.fs.SyncDir(dir)
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
			// Where we may not look we have made nothing either, and a file system
			// that cannot sync directories (autofs, squashfs) is another than the
			// store's, which has to.
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkDir reports whether there is a store. In a directory with other files
// and no store nothing is changed.
func (l *Log) checkDir() (exists bool, err error) {
	names, err := l.fs.ReadDir(l.options.Dir)
	if err != nil {
		return false, err
	}
	foreign := ""
	for _, name := range names {
		switch name {
		case identityName:
			return true, nil
		case lockName, identityTmpName:
		default:
			foreign = name
		}
	}
	if foreign != "" || l.options.ReadOnly {
		return false, fmt.Errorf("%w: %s has no %s file", ErrNotStore, l.options.Dir, identityName)
	}
	return false, nil
}

// scan reads the headers of the segments.
func (l *Log) scan() error {
	names, err := l.fs.ReadDir(l.options.Dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if isFreeFile(name) {
			l.leftovers = append(l.leftovers, name)
			continue
		}
		base, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		l.raiseNextSegment(l.number(base)+1, name)
		p, err := l.readStart(name, headerBytes)
		if err != nil {
			return err
		}
		h, err := decodeSegmentHeader(p)
		switch {
		case err == nil && h.base != base:
			// Renamed for reuse, and header or name did not get there: nothing
			// in it was ever durable under this name (L3).
			l.leftovers = append(l.leftovers, name)
			continue
		case errors.Is(err, ErrVersion):
			return fmt.Errorf("%s: %w", name, err)
		case err != nil:
			// Whether this is damage, Replay knows.
			l.headless = append(l.headless, headless{name, base, err})
			continue
		case h.storeID != l.storeID || h.segmentBytes != l.segmentBytes || uint64(base)%l.segmentBytes != 0:
			return &CorruptError{File: name, LSN: base, Err: errForeign}
		}
		l.incarnation = max(l.incarnation, h.incarnation)
		l.raiseNextSegment(l.number(h.prevEnd)+1, name)
		l.found = append(l.found, &foundSegment{name: name, segmentHeader: h})
	}
	return nil
}

var errForeign = errors.New("segment of another store")

// raiseNextSegment sees to it that the log goes on in segment n or behind it, because
// of what a file says. It is called before Start.
func (l *Log) raiseNextSegment(n uint64, file string) {
	if n > l.nextSegment.Load() {
		l.nextSegment.Store(n)
		l.farthest = file
	}
}

// segmentsMax bounds how far the log goes on behind its first segment: the table of
// segments takes memory for what lies between.
const segmentsMax = 1 << 32

var errFar = errors.New("far behind the rest of the log")

// checkNumbers says which file has the log go on where it cannot, if one does: a bad
// name, or one of another store.
func (l *Log) checkNumbers() error {
	first, next := uint64(1), l.nextSegment.Load()
	if len(l.found) > 0 {
		first = l.number(l.found[0].base)
	}
	if next-min(first, next) > segmentsMax || next > math.MaxInt64/l.segmentBytes {
		return &CorruptError{File: l.farthest, Err: fmt.Errorf("%w: segment %d after %d", errFar, next-1, first)}
	}
	return nil
}

func storeMax(a *atomic.Uint64, x uint64) {
	for {
		old := a.Load()
		if old >= x || a.CompareAndSwap(old, x) {
			return
		}
	}
}

// Start lets the log be written. It removes what lies behind the end that
// Replay found, makes durable what Replay delivered, and raises the incarnation
// durably, in this order, all before the first record (L4).
func (l *Log) Start() error {
	switch {
	case l.closed.Load():
		return ErrClosed
	case l.options.ReadOnly:
		return ErrReadOnly
	case l.started.Load():
		return fmt.Errorf("%w: started twice", ErrState)
	case !l.replayed && !l.options.Discard:
		return fmt.Errorf("%w: Start before Replay", ErrState)
	}
	if !l.options.Discard {
		if err := l.startFiles(); err != nil {
			return err
		}
	} else {
		l.incarnation++
	}
	l.seed = seedOf(l.incarnation)
	l.slabs = newSlabPool(l.bufferBytes, streams+l.options.Buffers)
	for i := range l.streams {
		st := &l.streams[i]
		st.log, st.id = l, Stream(i)
		s := l.newSegment(st.id)
		s.linked.Store(true)
		b := &buffer{stream: st, segment: s, base: s.base + headerBytes, slab: l.slabs.get()}
		b.data = b.slab.data
		st.current.Store(b)
		st.head.Store(b)
		st.durable.Store(uint64(b.base))
		st.last, st.lastDurable = l.recoveredLast[i], l.recoveredLast[i]
		st.markedTo = b.base
	}
	l.started.Store(true)
	l.refusal.Store(nil)
	l.goroutines.Add(2)
	go l.runFlusher()
	go l.runSyncer()
	if l.options.Preallocate && !l.options.Discard {
		l.goroutines.Add(1)
		go l.runPreparer()
		l.kickPreparer()
	}
	return nil
}

func (l *Log) startFiles() error {
	for _, name := range append(l.leftovers, l.dead...) {
		if err := l.fs.Remove(l.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// From now on all that Replay delivered counts as durable.
	for _, s := range l.unsynced {
		h, err := l.openSegment(s)
		if err != nil {
			return err
		}
		if err := errors.Join(h.file.Sync(), h.release()); err != nil {
			return err
		}
	}
	if err := l.fs.SyncDir(l.options.Dir); err != nil {
		return err
	}
	err := l.writeIdentity(identity{
		storeID:      l.storeID,
		incarnation:  l.incarnation + 1,
		segmentBytes: l.segmentBytes,
		nextSegment:  l.nextSegment.Load(),
	})
	if err != nil {
		return err
	}
	l.incarnation++
	return nil
}

// Close writes and syncs what is complete, ends the streams with a durable
// mark, joins the goroutines and gives up the lock. It returns the latched
// failure, if there is one. Later calls of anything that can fail: ErrClosed.
//
// REQUIRES: every reservation has ended.
func (l *Log) Close() error {
	if l.closed.Swap(true) {
		return ErrClosed
	}
	l.refusal.Store(&failure{ErrClosed})
	close(l.quit)
	l.goroutines.Wait()
	var errs []error
	if l.started.Load() && !l.options.Discard {
		err := l.Sync()
		if err == nil && l.writeMarks() {
			err = l.Sync()
		}
		errs = append(errs, err)
	}
	l.syncMu.Lock()
	l.syncClosed = true
	for l.syncing {
		l.synced.Wait()
	}
	l.synced.Broadcast()
	l.syncMu.Unlock()
	l.signalSpace()
	lock(&l.writing)
	for i := range l.streams {
		for _, d := range l.streams[i].dirty {
			errs = append(errs, d.handle.release())
		}
		l.streams[i].dirty = nil
	}
	l.writing.Unlock()
	errs = append(errs, l.handles.closeAll())
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}

// MarkSoon says that nobody has used the log for a while: in the background each stream
// that is durable as a whole, and does not end with a durable mark, gets one. It does
// not wait, and makes nothing else durable.
func (l *Log) MarkSoon() { kick(l.markKick) }

// writeMarks appends a durable mark to each stream that is durable as a whole
// and does not end with one, and reports whether there was any. Damage to what
// lies before it can then be told from a torn write.
//
// It is called by the syncer, and by Close after the syncer ended.
func (l *Log) writeMarks() bool {
	any := false
	for i := range l.streams {
		st := &l.streams[i]
		tail := st.tail()
		if tail == st.markedTo || tail != LSN(st.durable.Load()) || l.failure.Load() != nil {
			continue
		}
		r, err := l.reserve(st.id, 0, recordMark)
		if err != nil {
			return any
		}
		st.markedTo = r.Complete(0)
		any = true
	}
	return any
}

// StoreID returns the number that names the store, made at random with it.
func (l *Log) StoreID() [16]byte { return l.storeID }

// Incarnation returns the number of this writing open, which every Start
// raises; before Start, of the last one.
func (l *Log) Incarnation() uint64 { return l.incarnation }
