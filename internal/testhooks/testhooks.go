// Package testhooks lets the tests of a package break, or hold up, the packages
// below it. The switches make the store wrong on purpose, to show that a test
// finds it; they have an effect in debug builds only (see package invariant).
// The yield points stand in every build, and are off until a test sets a hook.
//
// Nothing but a test sets anything here, while no store is open.
package testhooks

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/pulkdb/db/internal/invariant"
)

// A Switch makes one thing wrong while it is on.
type Switch struct{ on atomic.Bool }

// The switches.
var (
	// SkipRangeValidation: a commit looks at the keys that were read, and not
	// at the ranges.
	SkipRangeValidation Switch

	// PublishLeafByLeaf: the leaves of a commit become visible one by one.
	PublishLeafByLeaf Switch

	// DropNeededVersions: a merge keeps of each key the newest version only,
	// whatever the open read snapshots see.
	DropNeededVersions Switch

	// SkipSync: the log counts what it wrote as durable.
	SkipSync Switch

	// SkipDirSync: the log counts the names of new segments as durable.
	SkipDirSync Switch

	// RetryFailedSync: a sync of the log that fails is tried once more.
	RetryFailedSync Switch

	// RecoverBySync: what recovery accepts is synced, and not written again.
	RecoverBySync Switch

	// AcceptTornRecord: a record counts whatever its checksum.
	AcceptTornRecord Switch

	// ApplyPartOfBatch: the parts of a group count without its last.
	ApplyPartOfBatch Switch

	// ReuseSegmentEarly: a segment goes although page-table snapshots need it.
	ReuseSegmentEarly Switch

	// LoseLimbo: a freed PID is handed out although somebody may still look at
	// its page.
	LoseLimbo Switch

	// GatherStale: a page that was read to be written merged is, whatever has
	// become of it meanwhile.
	GatherStale Switch

	// AcceptTornUpdate: an update that is read by itself counts whatever its checksum.
	AcceptTornUpdate Switch

	// SalvageSkipSegment: some segments are not looked at.
	SalvageSkipSegment Switch

	// SalvageMissSecond: of what follows damage in a record every second update is
	// missed.
	SalvageMissSecond Switch

	// SalvageOlderVersion: the newest update of a page is left out.
	SalvageOlderVersion Switch

	// SalvageDropRightHalf: some leaves that do not begin the key space are left out.
	SalvageDropRightHalf Switch

	// SalvageLoseLarge: values in pages of their own are left out.
	SalvageLoseLarge Switch

	// SalvageReportNothing: what is lost is not reported.
	SalvageReportNothing Switch

	// BackupUnsealed: after a crash, stamps may go on below the moment of a backup.
	BackupUnsealed Switch

	// BackupMissEvicted: an incremental backup takes a leaf that is not in memory for
	// unchanged.
	BackupMissEvicted Switch

	// SalvageFoldTwice: operands are put on their base twice.
	SalvageFoldTwice Switch

	// SalvageFoldAnyBase: operands count although updates before them are missing.
	SalvageFoldAnyBase Switch

	// SalvageForgetErased: erased ranges are left out.
	SalvageForgetErased Switch

	// SalvageTrustTorn: what lies behind the torn end of a stream counts.
	SalvageTrustTorn Switch

	// SalvageReportTorn: what a crash has torn is reported as damage.
	SalvageReportTorn Switch

	// SalvageTrustCutOff: what an earlier recovery may have cut off counts.
	SalvageTrustCutOff Switch
)

// On reports whether the switch is on. It costs nothing outside debug builds.
func (s *Switch) On() bool { return invariant.Debug && s.on.Load() }

// Set turns the switch.
func (s *Switch) Set(on bool) { s.on.Store(on) }

// A yielder sets the yield hook of one package; nil takes it away.
type yielder func(func(point string))

var (
	mu       sync.Mutex
	yielders = map[string]yielder{}
)

// Spin names, in every package, the point where a goroutine waits for what another
// is about to do.
const Spin = "spin"

// Register says how the yield hook of a package is set. Packages do so when they
// are initialised.
func Register(name string, set func(func(point string))) {
	mu.Lock()
	defer mu.Unlock()
	yielders[name] = set
}

var random func() uint32

// SetRandom has f give the numbers of Random; nil ends that.
func SetRandom(f func() uint32) { random = f }

// Random returns a number that some internal choice depends on.
func Random() uint32 {
	if random != nil {
		return random()
	}
	return rand.Uint32()
}

// SetYield has f called at every yield point of every package, with the point's
// name as "tree 3"; nil ends that.
func SetYield(f func(point string)) {
	mu.Lock()
	defer mu.Unlock()
	for name, set := range yielders {
		if f == nil {
			set(nil)
			continue
		}
		set(func(point string) { f(name + " " + point) })
	}
}
