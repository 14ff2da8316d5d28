package tree

import (
	"sync"
	"sync/atomic"
	"time"
)

// thinNodes are nodes that may want to be joined: whoever folds or loads one that
// has become thin notes it, and the joiner's goroutine looks after it. It is a
// list of hints: what is noted need not be thin any more, nor a node. What does not
// fit the list is found by a walk over the tree afterwards; what was noted when a
// process ended is noted again when the node is loaded.
type thinNodes struct {
	nodeBytes int // Options.MaxNodeBytes. Immutable.
	count     atomic.Int64
	missed    atomic.Bool // the list was full
	wake      chan struct{}

	mu    sync.Mutex // a leaf of the lock order
	pids  []PID      // Guarded by mu. First noted, first looked after.
	known map[PID]struct{}

	// Those that could not be joined are not noted again for a while: to look at a
	// node and its neighbours may mean to load and fold them, which notes them.
	refused map[PID]bool // Guarded by mu. True: noted meanwhile.
}

const (
	thinMax = 4096 // remembered at once

	retryEvery = 500 * time.Millisecond
	retryMax   = 256 // refused nodes that are looked at once more then

	// joinPauseMin is how long the joiner rests after each join, so that many
	// deletions are done before their leaves are joined; joinPauseShare is in
	// multiples of what the join took.
	joinPauseMin   = time.Millisecond
	joinPauseShare = 1
)

func newThinNodes(nodeBytes int) *thinNodes {
	return &thinNodes{nodeBytes: nodeBytes, wake: make(chan struct{}, 1), known: make(map[PID]struct{}), refused: make(map[PID]bool)}
}

// noteIf notes page pid if n is a thin node and has siblings.
func (x *thinNodes) noteIf(pid PID, n node) {
	if !n.isRoot() && fillOf(n).thin(x.nodeBytes) {
		x.note(pid)
	}
}

func (x *thinNodes) note(pid PID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, ok := x.known[pid]; ok {
		return
	}
	if _, ok := x.refused[pid]; ok {
		x.refused[pid] = true
		return
	}
	if len(x.pids) >= thinMax {
		x.missed.Store(true)
		return
	}
	x.known[pid] = struct{}{}
	x.pids = append(x.pids, pid)
	x.count.Store(int64(len(x.pids)))
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// noteAgain is note for a node that may have been refused and now has neighbours.
func (x *thinNodes) noteAgain(pid PID) {
	x.mu.Lock()
	delete(x.refused, pid)
	x.mu.Unlock()
	x.note(pid)
}

// refuse says that the node could not be joined.
func (x *thinNodes) refuse(pid PID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.refused) < thinMax {
		x.refused[pid] = false
	}
}

// retry lets refused nodes be noted again, and notes some of those that were
// meanwhile.
func (x *thinNodes) retry() {
	x.mu.Lock()
	refused := x.refused
	x.refused = make(map[PID]bool)
	x.mu.Unlock()
	n := 0
	for pid, again := range refused {
		if again && n < retryMax {
			x.note(pid)
			n++
		}
	}
}

func (x *thinNodes) take() (pid PID, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.pids) == 0 {
		return 0, false
	}
	pid = x.pids[0]
	x.pids = x.pids[1:]
	delete(x.known, pid)
	x.count.Store(int64(len(x.pids)))
	return pid, true
}

// A joiner joins, in the background, what has become thin.
type joiner struct {
	t    *Tree
	stop chan struct{}
	done sync.WaitGroup

	// mu is held during a join, and by Check, which wants none. Nobody else waits
	// for it.
	mu sync.Mutex
}

func (j *joiner) start(t *Tree) {
	j.t, j.stop = t, make(chan struct{})
	if t.options.Cache.ReadOnly {
		return
	}
	j.done.Add(1)
	go j.run()
}

// close joins the goroutine.
func (j *joiner) close() {
	close(j.stop)
	j.done.Wait()
}

func (j *joiner) run() {
	defer j.done.Done()
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	for progress := true; ; {
		select {
		case <-j.stop:
			return
		case <-retry.C:
			j.t.thin.retry()
		case <-j.t.thin.wake:
		}
		for !j.stopping() {
			pid, ok := j.t.thin.take()
			if !ok {
				// A walk that led to no join would find the same again.
				if !j.t.thin.missed.Swap(false) || !progress || !j.walk() {
					break
				}
				progress = false
				continue
			}
			start := time.Now()
			if !j.join(pid) {
				j.t.thin.refuse(pid)
				continue
			}
			progress = true
			select {
			case <-j.stop:
				return
			case <-time.After(joinPauseMin + joinPauseShare*time.Since(start)):
			}
		}
	}
}

func (j *joiner) stopping() bool {
	select {
	case <-j.stop:
		return true
	default:
		return false
	}
}

// join joins the node, and reports whether it did. What fails comes up again.
func (j *joiner) join(pid PID) bool {
	if j.t.cache.ThrottleUnpaced() != nil {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	done, err := j.t.tryJoin(pid)
	if err != nil {
		j.t.metrics.tendErrors.Add(1)
	}
	return done
}

// walk looks at all leaves, by what their parents say, and notes those that are
// thin. It reports whether there were any.
func (j *joiner) walk() (found bool) {
	t := j.t
	for at := []byte(nil); !j.stopping(); {
		g, p, err := t.locate(0, &seek{key: at}, 1)
		if err != nil || p.node == nil {
			if err == nil {
				g.Unpin()
			}
			return found
		}
		m := newMerger()
		n, err := m.mergeView(nil, p.view, folder{})
		m.release()
		g.Unpin()
		if err != nil || n == nil {
			return found
		}
		for i := range n.count() {
			if n.count() > 1 && t.roughFill(n.child(i)).thin(t.options.MaxNodeBytes) {
				if t.load(n.child(i), true) == nil { // which notes it
					found = found || t.thin.count.Load() > 0
				}
			}
		}
		if n.isLast() {
			return found
		}
		at = append(at[:0:0], n.hi()...)
	}
	return found
}
