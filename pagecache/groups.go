package pagecache

import (
	"sync"

	"github.com/pulkdb/db/log"
)

// groups knows the stretch of the log that holds record groups of which the last
// part may not be durable. Until it is, the other parts count for nothing after a
// crash, durable or not; so what is in them must be taken for not durable.
//
// It is one stretch, from the first part of the oldest such group on: a bound,
// and all that is needed, since groups are few and soon durable.
type groups struct {
	mu    sync.Mutex
	first LSN // Guarded by mu.
	end   LSN // Guarded by mu. 0: there was no group yet.
}

// note adds a group from first to end, before any page in it can be seen without
// its writer bit.
func (s *groups) note(first, end, durable LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end <= durable {
		s.first = first
	}
	s.first, s.end = min(s.first, first), max(s.end, end)
}

// settled reports whether the update at p, in the Fresh stream, stays after a
// crash, given how far the stream is durable.
func (s *groups) settled(p log.Position, durable LSN) bool {
	if endOf(p) > durable {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end <= durable || p.LSN < s.first
}
