package tree

import (
	"bytes"

	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/pagecache"
)

// Validation: nothing that a transaction read has a version that its moment does
// not see. It looks at the leaves that are read, so it costs what the transaction
// read, however many others are under way.
//
// Such a version is found if there is one, because the moment is open: what is
// newer than it keeps its stamp in merges (T4), and a tombstone stays as long as it
// hides a version that the moment sees. What a merge may have dropped is a key
// that came and went behind the moment; then the leaf says what was read.

// A verdict is what a leaf says about a share's reads.
type verdict uint8

const (
	verdictValid    verdict = iota + 1 // nothing is newer than the moment
	verdictConflict                    // something is
	verdictUnknown                     // the leaf is not in memory and may have something newer, or is being written to
)

// validate judges the reads of a share by the leaf as v shows it.
func (c *commit) validate(v pagecache.View, s *share) (verdict, error) {
	if testhooks.SkipRangeValidation.On() {
		s.spans = singleKeys(s.spans)
	}
	if !s.reads() {
		return verdictValid, nil
	}
	moment := c.r.Moment.Stamp()
	newest, visible := v.NewestStamp()
	switch {
	case !visible:
		return verdictUnknown, nil
	case newest <= moment:
		return verdictValid, nil
	}
	for d := v.Newest(); d.Valid(); d = d.Older() {
		stamp, visible := d.Stamp()
		if !visible {
			return verdictUnknown, nil
		}
		if stamp <= moment {
			break // stamps grow along a chain
		}
		touched, err := s.touchedBy(d.Data())
		if err != nil || touched {
			return verdictConflict, err
		}
	}
	if !v.Resident() {
		return verdictUnknown, nil
	}
	n, err := asNode(v.Base())
	if err != nil {
		return 0, err
	}
	if s.touchedIn(n, moment) {
		return verdictConflict, nil
	}
	return verdictValid, nil
}

// touchedBy reports whether the delta changes something that was read.
func (s *share) touchedBy(data []byte) (bool, error) {
	d, err := asDelta(data)
	if err != nil {
		return false, err
	}
	if d.isErase() {
		e, err := decodeErase(d)
		return err == nil && s.touchedByErase(&e), err
	}
	for _, key := range s.keys {
		_, found, ok := d.find(key)
		if !ok {
			return false, ErrCorrupt
		}
		if found {
			return true, nil
		}
	}
	for _, r := range s.spans {
		i, _, ok := d.search(r.Lo)
		if !ok {
			return false, ErrCorrupt
		}
		if i == d.count() {
			continue
		}
		x, ok := d.at(i)
		if !ok {
			return false, ErrCorrupt
		}
		if r.Hi == nil || bytes.Compare(x.key, r.Hi) < 0 {
			return true, nil
		}
	}
	return false, nil
}

// touchedByErase reports whether the erasure meets a key or a range that was read,
// and does not ask whether there was anything to erase.
func (s *share) touchedByErase(e *erasure) bool {
	for _, key := range s.keys {
		if e.covers(key) {
			return true
		}
	}
	for _, r := range s.spans {
		if (e.hiOpen || bytes.Compare(r.Lo, e.hi) < 0) && (e.loOpen || r.Hi == nil || bytes.Compare(e.lo, r.Hi) < 0) {
			return true
		}
	}
	return false
}

// touchedIn reports whether a version in the leaf of what was read is newer than
// the moment. Of a key's versions the first is the newest.
func (s *share) touchedIn(n node, moment uint64) bool {
	if !n.versioned() || n.newest() <= moment {
		return false
	}
	for _, key := range s.keys {
		if i, equal := n.search(key); equal && n.entry(i).stamp > moment {
			return true
		}
	}
	for _, r := range s.spans {
		from, _ := n.search(r.Lo)
		to := n.count()
		if r.Hi != nil {
			to, _ = n.search(r.Hi)
		}
		for i := from; i < to; i++ {
			if n.entry(i).stamp > moment {
				return true
			}
		}
	}
	return false
}
