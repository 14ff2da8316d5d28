package log

import (
	"slices"

	"github.com/pulkdb/db/internal/testhooks"
)

// What lies behind the end of a stream was never durable and does not count: behind
// where a crash has torn it, and behind where an earlier recovery found that, which
// the header of the next segment states.

// raise takes in a mark that the incarnation wrote into the segment.
func (s *Salvager) raise(seg *salvagedSegment, incarnation uint64, mark LSN) {
	if seg.placed {
		s.marks[seg.stream] = max(s.marks[seg.stream], mark)
		s.own[seg.stream][incarnation] = max(s.own[seg.stream][incarnation], mark)
	}
}

// Durable reports whether a mark that was met by now says that what stands at the
// LSN counts: CutTorn will neither cut it off nor doubt it.
func (s *Salvager) Durable(lsn LSN) bool {
	seg := s.byBase[s.byStart(lsn)]
	return seg != nil && seg.placed && lsn < s.marks[seg.stream] && (seg.end != 0 || lsn < s.ownMark(seg))
}

// ownMark is below what the incarnation that wrote the segment has made its stream
// durable.
func (s *Salvager) ownMark(seg *salvagedSegment) LSN {
	if !seg.placed || len(seg.incarnations) != 1 {
		return seg.mark
	}
	return max(seg.mark, s.own[seg.stream][seg.incarnations[0]])
}

// CutTorn decides, after Scan, what a crash has torn, as Replay would. A stream ends
// at the first place that cannot be read and that lies above all durable marks, those
// given among them: what follows in it does not count, and is no damage. It ends as
// well before a segment that is missing or has no header, of which nothing says that
// it was durable: then its name or its header was not. Those that end by from were
// reused.
//
// Nor does a segment without a header count of which neither its own records nor
// another segment that counts, nor the caller, says that it was durable; but if there
// is any of which they do, it was not a crash that took the headers.
//
// With needed nil, for want of a page-table snapshot, nothing is doubted: whoever has
// none misses whatever the damage may have cost.
func (s *Salvager) CutTorn(durable, from Marks, needed map[LSN]bool) {
	for i := range s.marks {
		s.marks[i] = max(s.marks[i], durable[i])
	}
	for _, seg := range s.segments {
		prev := s.byBase[seg.prevBase]
		if seg.headed && seg.prevBase != 0 && (prev == nil || !prev.headed) && !needed[seg.prevBase] &&
			seg.prevEnd > from[seg.stream] && s.marks[seg.stream] <= seg.prevBase+headerBytes {
			s.tear(seg.stream, seg.prevBase)
		}
	}
	beheaded := false
	for _, seg := range s.segments {
		named := seg.counts && !s.isTorn(seg.stream, seg.base)
		seg.counts = seg.headed || named || needed[seg.base] || seg.mark > seg.base+headerBytes
		beheaded = beheaded || seg.counts && !seg.headed
	}
	for _, seg := range s.segments {
		seg.counts = seg.counts || beheaded
	}
	for _, d := range s.damage {
		if d.Streams == 1 && d.LSN >= s.marks[d.Stream] && d.LSN > s.byStart(d.LSN) {
			s.tear(d.Stream, d.LSN)
		}
	}
	s.damage = slices.DeleteFunc(s.damage, func(d Damage) bool {
		seg := s.byBase[s.byStart(d.LSN)]
		return d.Streams == 1 && s.isTorn(d.Stream, d.LSN) && !testhooks.SalvageReportTorn.On() || d.File != identityName && seg != nil && !seg.counts
	})
	if needed != nil {
		s.doubt(needed)
	}
}

// tear ends the stream at the LSN.
func (s *Salvager) tear(stream Stream, at LSN) {
	if s.torn[stream] == 0 || at < s.torn[stream] {
		s.torn[stream] = at
		// A mark where a segment begins says nothing of the segment.
		s.ends[stream] = min(s.ends[stream], max(at, s.byStart(at)+headerBytes))
	}
}

func (s *Salvager) isTorn(stream Stream, lsn LSN) bool {
	return s.torn[stream] != 0 && lsn >= s.torn[stream]
}

// Counts reports whether what was found at the LSN counts, after CutTorn.
func (s *Salvager) Counts(lsn LSN) bool {
	seg := s.byBase[s.byStart(lsn)]
	return seg != nil && seg.counts && (!seg.placed || !s.isTorn(seg.stream, lsn) || testhooks.SalvageTrustTorn.On())
}

// doubt finds the segments that may be the last of their stream and incarnation, and
// are followed by another incarnation's, but the header is not left that would say
// where a recovery found their end. What lies above the marks of that incarnation may
// have been cut off.
func (s *Salvager) doubt(needed map[LSN]bool) {
	newest := LSN(0) // of the segments that are not there
	for base := range needed {
		if s.byBase[base] == nil {
			newest = max(newest, base)
		}
	}
	for i, seg := range s.segments {
		if seg.end != 0 || !seg.found {
			continue
		}
		followed, wentOn := newest > seg.base, false
		for _, later := range s.segments[i+1:] {
			both := seg.placed && later.placed
			if !later.counts || !later.found || both && seg.stream != later.stream || later.placed && s.isTorn(later.stream, later.base) {
				continue
			}
			followed = followed || later.incarnations[0] > seg.incarnations[0]
			wentOn = wentOn || both && later.incarnations[0] == seg.incarnations[0]
		}
		if followed && !wentOn {
			seg.doubt = max(seg.base+headerBytes, s.ownMark(seg))
		}
	}
}

// Doubtful reports, after CutTorn, whether an earlier recovery may have cut off what
// was found at the LSN, although it counts.
func (s *Salvager) Doubtful(lsn LSN) bool {
	seg := s.byBase[s.byStart(lsn)]
	return seg != nil && seg.doubt != 0 && lsn >= seg.doubt && !testhooks.SalvageTrustCutOff.On()
}
