package pagecache

import (
	"cmp"
	"slices"
	"sync"
)

// recoveryState holds, per tree, the recovery state with the highest generation
// that was ever noted: never the latest written, since a former root that is
// moved later must not win (P6).
type recoveryState struct {
	mu    sync.Mutex
	trees map[uint64]Recovery // Guarded by mu.
}

// note takes r if its generation is the highest so far.
func (s *recoveryState) note(r Recovery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.trees[r.Tree]; !ok || r.Generation > old.Generation {
		s.trees[r.Tree] = r
	}
}

func (s *recoveryState) get(tree uint64) (Recovery, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.trees[tree]
	return r, ok
}

// all returns the states, ascending by tree.
func (s *recoveryState) all() []Recovery {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]Recovery, 0, len(s.trees))
	for _, r := range s.trees {
		states = append(states, r)
	}
	slices.SortFunc(states, func(a, b Recovery) int { return cmp.Compare(a.Tree, b.Tree) })
	return states
}

// recoveryOf asks the materializer for the recovery state in a base. A panic of
// its counts as none.
func (c *Cache) recoveryOf(pid PID, base []byte) (found *Recovery) {
	defer func() {
		if r := recover(); r != nil {
			c.options.Logger.Error("pagecache: materializer panicked in Recover", "pid", uint64(pid), "panic", r)
		}
	}()
	r, ok := c.options.Materializer.Recover(base)
	if !ok {
		return nil
	}
	found = new(Recovery) // and not r, which most bases have none of
	*found = r
	found.PID, found.State = pid, slices.Clone(r.State)
	return found
}

// Recovered returns the recovery state of a tree: of all bases with one that are
// in the store, the one with the highest generation. After Open it is what the
// last opener left.
func (c *Cache) Recovered(tree uint64) (Recovery, bool) { return c.recovery.get(tree) }
