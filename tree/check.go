package tree

import (
	"bytes"
	"fmt"

	"github.com/pulkdb/db/pagecache"
)

// Check walks the whole tree and returns the first contradiction: on every level
// the fences tile the key space, siblings follow one another, keys are in order
// and within their fences, every child begins at its separator, and every chunk
// of a large value is as its entry says. Writers may go on meanwhile; joins wait.
func (t *Tree) Check() error {
	if err := t.readable(); err != nil {
		if err == ErrNotFound {
			err = nil
		}
		return err
	}
	t.joiner.mu.Lock()
	defer t.joiner.mu.Unlock()
	children := map[PID][]byte{}
	pid := t.root.Load().pid
	n, err := t.merged(pid)
	if err != nil {
		return err
	}
	for level := n.level(); ; level-- {
		leftmost, next, err := t.checkLevel(pid, level, children)
		if err != nil || level == 0 {
			return err
		}
		pid, children = leftmost, next
	}
}

// checkLevel walks a level from its leftmost page along the siblings. children
// are those that the level above names, by PID; a page that it does not name is
// one whose separator is not posted. It returns the children of this level.
func (t *Tree) checkLevel(pid PID, level int, children map[PID][]byte) (leftmost PID, next map[PID][]byte, err error) {
	next = map[PID][]byte{}
	found := 0
	lo := []byte{}
	for pid != 0 {
		n, err := t.merged(pid)
		if err != nil {
			return 0, nil, err
		}
		if n.level() != level || !bytes.Equal(n.lo(), lo) {
			return 0, nil, fmt.Errorf("%w: page %d at level %d begins at %q, want level %d, %q", ErrCorrupt, pid, n.level(), n.lo(), level, lo)
		}
		if sep, ok := children[pid]; ok {
			if !bytes.Equal(sep, n.lo()) {
				return 0, nil, fmt.Errorf("%w: page %d begins at %q, its separator is %q", ErrCorrupt, pid, n.lo(), sep)
			}
			found++
		}
		if leftmost == 0 && level > 0 {
			leftmost = n.child(0)
		}
		if err := t.checkEntries(n, next); err != nil {
			return 0, nil, fmt.Errorf("page %d: %w", pid, err)
		}
		pid, lo = n.right(), bytes.Clone(n.hi())
	}
	if found < len(children) {
		return 0, nil, fmt.Errorf("%w: %d of %d children at level %d are not among the siblings", ErrCorrupt, len(children)-found, len(children), level)
	}
	return leftmost, next, nil
}

// checkEntries checks the node, collects an inner node's children and reads a
// leaf's large values.
func (t *Tree) checkEntries(n node, children map[PID][]byte) error {
	if err := n.validate(); err != nil {
		return err
	}
	for i := range n.count() {
		e := n.entry(i)
		switch {
		case !n.isLeaf():
			if children[childOf(e.value)] != nil {
				return fmt.Errorf("%w: page %d is a child twice", ErrCorrupt, childOf(e.value))
			}
			children[childOf(e.value)] = n.appendKey([]byte{}, i)
		case e.flags&entryIndirect != 0 && i+1 == n.group(i) && e.flags&entryOlder == 0:
			if err := t.checkChunks(n.appendKey(nil, i), e.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkChunks reads a large value, unless it has been replaced meanwhile.
func (t *Tree) checkChunks(key, list []byte) error {
	_, current, err := t.appendChunked(nil, list)
	if err != nil || current {
		return err
	}
	_, now, err := t.current(key)
	if err == nil && bytes.Equal(now.value, list) {
		err = fmt.Errorf("%w: value of %q has lost a chunk", ErrCorrupt, key)
	}
	return err
}

// merged returns the page as a private node with all its versions.
func (t *Tree) merged(pid PID) (node, error) {
	for {
		n, err := t.tryMerged(pid)
		if n != nil || err != nil {
			return n, err
		}
		if err := t.cache.Load(pid); err != nil {
			return nil, err
		}
	}
}

func (t *Tree) tryMerged(pid PID) (node, error) {
	g := t.cache.Pin()
	defer g.Unpin()
	v, err := t.cache.View(g, pid)
	if err != nil {
		return nil, t.viewError(pid, err)
	}
	m := newMerger()
	defer m.release()
	return m.mergeView(v, folder{})
}

// viewError gives ErrGone its meaning for a page that another one refers to.
func (t *Tree) viewError(pid PID, err error) error {
	if err == pagecache.ErrGone {
		return fmt.Errorf("%w: page %d is referred to and free", ErrCorrupt, pid)
	}
	return err
}
