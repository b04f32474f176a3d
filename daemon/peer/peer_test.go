package peer

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"armarium/daemon/lockss"
)

// memFiles are state files in memory.
type memFiles struct {
	mu    sync.Mutex
	files map[string]string
	fail  error // of the next writes
}

func (m *memFiles) ReadState(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return []byte(s), nil
}

func (m *memFiles) WriteState(name string, b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.files[name] = string(b)
	return nil
}

type memKeeper struct{ b []byte }

func (k *memKeeper) Load() ([]byte, error) { return k.b, nil }
func (k *memKeeper) Save(b []byte) error   { k.b = slices.Clone(b); return nil }

const (
	au    lockss.AUID   = "org|example|Plugin&base_url~x"
	local lockss.PeerID = "TCP:[192.0.2.100]:9729"
	p1    lockss.PeerID = "TCP:[192.0.2.1]:9729"
	p2    lockss.PeerID = "TCP:[192.0.2.2]:9729"
	p3    lockss.PeerID = "TCP:[10.0.0.3]:9729"
)

var now = time.UnixMilli(1352368900000)

func params() Params {
	return Params{Groups: []string{"g1"}, Discovery: true, WrongGroupRetryTime: 28 * 24 * time.Hour,
		WeightAgeCurve: "[4d,1.0],[20d,0.1],[40d,0.01]", WeightAtRisk: 1, WeightSafety: 0.5,
		NoAUResetCurve:     "[1w,2d],[1w,7d],[30d,7d],[30d,30d],[100d,30d],[100d,50d]",
		NominationAgeCurve: "[10d,1.0],[30d,0.1],[40d,0.01]", MinNominations: 1, MaxNominations: 5,
		AllowRepairs: true, MinAgreementForRepairs: 0.5, MinAgreement: 0.5, RepairerLiveness: 14 * 24 * time.Hour, UpdatesBeforeStoring: 100}
}

func newPeers(t *testing.T, f *memFiles, k Keeper, p Params) *Peers {
	t.Helper()
	peers, err := New(Config{Local: local, Files: func(lockss.AUID) (Files, error) { return f, nil }, Keeper: k, Params: p})
	if err != nil {
		t.Fatal(err)
	}
	return peers
}

func readJSON(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

// stateFiles is state-files.json.
func stateFiles(t *testing.T) (xml map[string]string, binary struct {
	Keys  []struct{ ID, Hex string } `json:"peer_keys"`
	Dated struct {
		Date  int64 `json:"date_ms"`
		Peers []string
		Hex   string
	} `json:"dated_peer_set_file"`
	Empty struct{ Hex string } `json:"empty_dated_peer_set_file"`
}) {
	var v struct {
		XML    map[string]string
		Binary json.RawMessage
	}
	readJSON(t, "state-files.json", &v)
	if err := json.Unmarshal(v.Binary, &binary); err != nil {
		t.Fatal(err)
	}
	return v.XML, binary
}

func TestAgreementFileBytes(t *testing.T) {
	xml, _ := stateFiles(t)
	want := xml[agreementFile]
	a, old, err := parseAgreements([]byte(want))
	if err != nil || old {
		t.Fatalf("old %v, err %v", old, err)
	}
	if got := string(a.bytes()); got != want {
		t.Errorf("read and written:\n%s\nwant\n%s", got, want)
	}

	// The same file grown from nothing.
	f := &memFiles{files: map[string]string{}}
	p := newPeers(t, f, nil, params())
	for _, s := range []struct {
		t  Type
		v  float32
		at int64
	}{{PORHint, 1, 1352368900000}, {POR, 0.75, 1352360000000}, {POR, 0.5, 1352368800000}} {
		if err := p.Signal(au, s.t, map[lockss.PeerID]float32{p1: s.v}, time.UnixMilli(s.at)); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.files[agreementFile]; got != want {
		t.Errorf("grown:\n%s\nwant\n%s", got, want)
	}
}

func TestAgreementSequences(t *testing.T) {
	var v struct {
		Sequences [][]struct {
			Time        int64
			Signal      float32
			Current     float32
			CurrentTime int64 `json:"current_time"`
			Highest     float32
			HighestTime int64 `json:"highest_time"`
		}
	}
	readJSON(t, "agreement.json", &v)
	for i, seq := range v.Sequences {
		a, top, topAt := noAgreement, float32(-1), int64(0)
		for _, s := range seq {
			a = a.signal(s.Signal, time.UnixMilli(s.Time))
			// The recorded highest sinks (lcap-v3.md 15.2); the rule here is the maximum.
			if s.Signal > top {
				top, topAt = s.Signal, s.Time
			}
			if a.Percent != s.Current || a.Time.UnixMilli() != s.CurrentTime || a.Highest != top || a.HighestTime.UnixMilli() != topAt {
				t.Errorf("sequence %d at %d: %+v, want current %v, highest %v at %d", i, s.Time, a, s.Current, top, topAt)
			}
			if top == s.Highest && topAt != s.HighestTime {
				t.Errorf("sequence %d at %d: time of highest %d, recorded %d", i, s.Time, topAt, s.HighestTime)
			}
		}
	}
}

func TestUnknownElementsSurvive(t *testing.T) {
	in := `<org.lockss.protocol.AuAgreements>
  <list>
    <org.lockss.protocol.PeerAgreements>
      <id>TCP:[192.0.2.1]:9729</id>
      <map enum-type="org.lockss.protocol.AgreementType">
        <entry>
          <org.lockss.protocol.AgreementType>W_POR</org.lockss.protocol.AgreementType>
          <org.lockss.protocol.PeerAgreement>
            <percentAgreement>0.25</percentAgreement>
            <later>a &amp; b</later>
          </org.lockss.protocol.PeerAgreement>
        </entry>
      </map>
    </org.lockss.protocol.PeerAgreements>
  </list>
  <extra/>
</org.lockss.protocol.AuAgreements>`
	f := &memFiles{files: map[string]string{agreementFile: in}}
	p := newPeers(t, f, nil, params())
	if err := p.Signal(au, POR, map[lockss.PeerID]float32{p1: 1}, now); err != nil {
		t.Fatal(err)
	}
	out := f.files[agreementFile]
	for _, s := range []string{"<later>a &amp; b</later>", "<extra/>", "W_POR"} {
		if !strings.Contains(out, s) {
			t.Errorf("%s is lost:\n%s", s, out)
		}
	}
	if i, j := strings.Index(out, ">POR<"), strings.Index(out, ">W_POR<"); i < 0 || i > j {
		t.Errorf("POR is not before W_POR:\n%s", out)
	}
}

func TestMalformedFileIsSetAside(t *testing.T) {
	f := &memFiles{files: map[string]string{agreementFile: "<org.lockss.protocol.AuAgreements><list>", agreementFile + ".deser.old": "older"}}
	p := newPeers(t, f, nil, params())
	if err := p.Signal(au, POR, map[lockss.PeerID]float32{p1: 0.5}, now); err != nil {
		t.Fatal(err)
	}
	if got := f.files[agreementFile+".deser.old.1"]; got != "<org.lockss.protocol.AuAgreements><list>" {
		t.Errorf("the bytes are lost: %q", f.files)
	}
	if f.files[agreementFile+".deser.old"] != "older" {
		t.Error("an older file was overwritten")
	}
	if !p.MayRepair(au, p1, false) {
		t.Error("the new record does not count")
	}

	// What cannot be set aside is not overwritten.
	f = &memFiles{files: map[string]string{agreementFile: "garbage"}, fail: errors.New("disk full")}
	p = newPeers(t, f, nil, params())
	var fe *FileError
	if err := p.Signal(au, POR, map[lockss.PeerID]float32{p1: 0.5}, now); !errors.As(err, &fe) || fe.Name != agreementFile {
		t.Errorf("err %v, want a FileError that names %s", err, agreementFile)
	}
	f.fail = nil
	if err := p.Signal(au, POR, map[lockss.PeerID]float32{p1: 0.5}, now); err == nil || f.files[agreementFile] != "garbage" {
		t.Errorf("err %v, file %q", err, f.files[agreementFile])
	}
}

func TestOldAgreementFile(t *testing.T) {
	in := `<list><org.lockss.protocol.IdentityManager-IdentityAgreement><lastAgree>1000</lastAgree><lastDisagree>0</lastDisagree>` +
		`<percentAgreement>0.25</percentAgreement><percentAgreementHint>0.75</percentAgreementHint><highestPercentAgreement>0.5</highestPercentAgreement>` +
		`<id>TCP:[192.0.2.1]:9729</id></org.lockss.protocol.IdentityManager-IdentityAgreement><x><id>192.0.2.9</id></x></list>`
	f := &memFiles{files: map[string]string{agreementFile: in}}
	p := newPeers(t, f, nil, params())
	m, err := p.Agreements(au)
	if err != nil || len(m) != 1 || m[p1][POR].Percent != 0.25 || m[p1][POR].Highest != 0.5 || m[p1][PORHint].Highest != 0.75 {
		t.Errorf("%+v, %v", m, err)
	}
	if f.files[agreementFile+".old"] != in {
		t.Error("the old form was not kept")
	}
}

func TestPeerSets(t *testing.T) {
	_, v := stateFiles(t)
	for _, k := range v.Keys {
		id, err := lockss.ParsePeerID(k.ID)
		if err != nil {
			continue // port 0 is a V1 identity, refused by us (lcap-v3.md 1.1)
		}
		b := appendPeerKey(nil, id)
		if got := hex.EncodeToString(b); got != k.Hex {
			t.Errorf("%s: %s, want %s", k.ID, got, k.Hex)
		}
		if back, ok := parsePeerKey(b); !ok || back != id {
			t.Errorf("%s read back: %s, %v", k.Hex, back, ok)
		}
	}
	b, _ := hex.DecodeString(v.Dated.Hex)
	s, err := parseDatedSet(b)
	if err != nil || s.date.UnixMilli() != v.Dated.Date || len(s.peers) != 1 || !s.peers[p1] {
		t.Errorf("dated set: %+v, %v", s, err)
	}
	if got := hex.EncodeToString(appendDatedSet(nil, s)); got != v.Dated.Hex {
		t.Errorf("dated set: %s, want %s", got, v.Dated.Hex)
	}
	if got := hex.EncodeToString(appendDatedSet(nil, datedSet{})); got != v.Empty.Hex {
		t.Errorf("empty set: %s, want %s", got, v.Empty.Hex)
	}
	b[15] ^= 1
	if s, _ := parseDatedSet(b); len(s.peers) != 0 {
		t.Error("a bad checksum was not seen")
	}
}

func TestJavaFloat(t *testing.T) {
	for f, want := range map[float32]string{1: "1.0", 0: "0.0", -1: "-1.0", 0.95833334: "0.9583333", 0.0003333333: "3.333333E-4", 0.5: "0.5"} {
		if got := javaFloat(f); got != want {
			t.Errorf("%v: %s, want %s", f, got, want)
		}
	}
}

func TestMayRepair(t *testing.T) {
	f := &memFiles{files: map[string]string{}}
	c := params()
	c.ReputationTransfer = []string{string(p1) + "," + string(p2), string(p2) + "," + string(p1)}
	p := newPeers(t, f, nil, c)
	signal := func(id lockss.PeerID, ty Type, v float32) {
		t.Helper()
		if err := p.Signal(au, ty, map[lockss.PeerID]float32{id: v}, now); err != nil {
			t.Fatal(err)
		}
	}
	signal(p3, PORHint, 1)
	if p.MayRepair(au, p3, false) {
		t.Error("a hint gave a right")
	}
	if !p.MayRepair(au, p3, true) {
		t.Error("open access needs no agreement")
	}
	signal(p1, SymmetricPOR, 0.5)
	signal(p1, SymmetricPOR, 0)
	if !p.MayRepair(au, p1, false) || !p.MayRepair(au, p2, false) {
		t.Error("the highest agreement, own or inherited, does not count")
	}
	if err := p.Signal(au, POR, map[lockss.PeerID]float32{p1: 1.5}, now); err == nil {
		t.Error("an agreement above 1 was taken")
	}
	c.AllowRepairs = false
	if err := p.Reconfigure(c); err != nil {
		t.Fatal(err)
	}
	if p.MayRepair(au, p1, true) {
		t.Error("served although switched off")
	}
}

func TestCandidates(t *testing.T) {
	f := &memFiles{files: map[string]string{}}
	k := &memKeeper{}
	c := params()
	c.InitialPeers = []string{string(p1), string(p2), string(local), "192.0.2.9"}
	c.NoInvitationSubnets = []string{"10.0.0.*"}
	p := newPeers(t, f, k, c)
	p.Heard(now, p2, 10, []string{"g1"}, 5)
	p.Heard(now, p3, 10, []string{"g1"}, 5)
	weights := func(at time.Time) map[lockss.PeerID]float64 {
		m := map[lockss.PeerID]float64{}
		for _, c := range p.Candidates(au, at, now.AddDate(0, 0, -1), 5) {
			m[c.Peer] = c.Weight
		}
		return m
	}
	if got, want := weights(now), (map[lockss.PeerID]float64{p1: 1, p2: 1}); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if err := p.Signal(au, POR, map[lockss.PeerID]float32{p2: 0.9}, now); err != nil {
		t.Fatal(err)
	}
	p.Invited(now.AddDate(0, 0, 40), p2) // not heard of for 40 days
	if w := weights(now)[p2]; w < 0.0049 || w > 0.0051 {
		t.Errorf("silent repairer weighs %v, want 0.005", w)
	}
	p.Heard(now, p2, 10, []string{"other"}, 5)
	if w, ok := weights(now)[p2]; ok {
		t.Errorf("foreign group weighs %v", w)
	}
	if _, ok := weights(now.AddDate(0, 0, 29))[p2]; !ok {
		t.Error("foreign group is not asked again after four weeks")
	}
	p.Heard(now, p2, 10, []string{"g1"}, 6)
	if _, ok := weights(now)[p2]; ok {
		t.Error("peer of another revision is invited")
	}
	if err := p.AddNoAU(au, []lockss.PeerID{p1}, now); err != nil {
		t.Fatal(err)
	}
	if len(f.files[noAUFile]) != 16 || p.Eligible(au, p1, now, 5) {
		t.Errorf("peer without the unit: file %q", f.files[noAUFile])
	}
	if _, ok := weights(now.AddDate(0, 0, 3))[p1]; !ok {
		t.Error("the set was not emptied after two days for a young unit")
	}

	// Statistics survive.
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	q := newPeers(t, f, k, c)
	if got, want := fmt.Sprint(q.Known()), fmt.Sprint(p.Known()); got != want {
		t.Errorf("known peers after restart:\n%s\nwant\n%s", got, want)
	}
	if err := p.Reconfigure(Params{WeightAgeCurve: "nonsense"}); err == nil {
		t.Error("a bad curve was taken")
	}
}

func TestNominees(t *testing.T) {
	p := newPeers(t, &memFiles{files: map[string]string{}}, nil, params())
	rng := rand.New(rand.NewPCG(1, 1))
	p.Learn(p1, p2, p3)
	if n := p.Nominees(au, p1, now, rng); len(n) != 0 {
		t.Errorf("nominated peers never heard from: %v", n)
	}
	for _, id := range []lockss.PeerID{p1, p2, p3} {
		p.Heard(now, id, 10, []string{"g2", "g1"}, 5)
	}
	p.Voted(now, p2)
	for range 50 {
		n := p.Nominees(au, p1, now, rng)
		if len(n) < 1 || len(n) > 2 || slices.Contains(n, p1) || slices.Contains(n, local) {
			t.Fatalf("nominees %v", n)
		}
	}
}

func TestChoose(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	c := []Candidate{{p1, 1}, {p2, 0.01}, {p3, 0.01}}
	first := map[lockss.PeerID]int{}
	for range 1000 {
		got := Choose(c, 2, rng)
		if len(got) != 2 || got[0] == got[1] {
			t.Fatal(got)
		}
		first[got[0]]++
	}
	if first[p1] < 950 {
		t.Errorf("heavy candidate first %d times of 1000", first[p1])
	}
	if got := Choose(c, 9, rng); len(got) != 3 {
		t.Errorf("asked for more than there are: %v", got)
	}
}

func TestHeardKeepsLittle(t *testing.T) {
	p := newPeers(t, &memFiles{files: map[string]string{}}, nil, params())
	p.Heard(now, p2, 10, []string{"a", "b"}, 5)
	p.Heard(now, p2, 10, []string{strings.Repeat("x", maxGroups)}, 5)
	if s := p.Known()[p2]; s.Messages != 2 || !slices.Equal(s.Groups, []string{"a", "b"}) {
		t.Errorf("%.200q", fmt.Sprint(s))
	}
}

func TestWillingRepairers(t *testing.T) {
	p := newPeers(t, &memFiles{files: map[string]string{}}, nil, params())
	if err := p.Signal(au, PORHint, map[lockss.PeerID]float32{p1: 0.5, p2: 0.6, p3: 1}, now); err != nil {
		t.Fatal(err)
	}
	p.Heard(now, p2, 10, nil, 5)
	p.Heard(now.AddDate(0, 0, -20), p3, 10, nil, 5)
	if n := p.WillingRepairers(au, now); n != 1 {
		t.Errorf("%d, want the one above the threshold and heard of lately", n)
	}
	if !p.Willing(au, p1) || p.Willing(au, local) {
		t.Error("Willing")
	}
}

func FuzzAgreements(f *testing.F) {
	f.Add([]byte("<org.lockss.protocol.AuAgreements><list/></org.lockss.protocol.AuAgreements>"))
	f.Add([]byte("<list><x><id>TCP:[192.0.2.1]:9729</id><percentAgreement>NaN</percentAgreement></x></list>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, _, err := parseAgreements(b)
		if err != nil {
			return
		}
		a.put(p1, POR, noAgreement.signal(0.5, now))
		again, old, err := parseAgreements(a.bytes())
		if err != nil || old {
			t.Fatalf("own output unreadable: %v\n%s", err, a.bytes())
		}
		if g, _ := again.get(p1, POR); g.Percent != 0.5 {
			t.Errorf("record read back as %+v", g)
		}
	})
}

// TestFloodOfStrangers: whoever introduces himself with thousands of identities keeps neither
// configured peers nor those that talk to us from being known, not even after a restart.
func TestFloodOfStrangers(t *testing.T) {
	k := &memKeeper{}
	c := params()
	p := newPeers(t, &memFiles{files: map[string]string{}}, k, c)
	p.Heard(time.Unix(1e9, 0), p1, 10, nil, 3)
	for i := range maxKnown + 10 {
		p.Learn(lockss.PeerID(fmt.Sprintf("TCP:[10.%d.%d.%d]:9729", i>>16, i>>8&255, i&255)))
	}
	p.Heard(time.Unix(1e9, 0), p2, 10, nil, 3)
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	c.InitialPeers = []string{string(p3)}
	known := newPeers(t, &memFiles{files: map[string]string{}}, k, c).Known()
	for _, id := range []lockss.PeerID{p1, p2, p3} {
		if _, ok := known[id]; !ok {
			t.Errorf("%s is not known", id)
		}
	}
	if len(known) > maxKnown+1 {
		t.Errorf("%d peers are known, want at most %d and the configured ones", len(known), maxKnown)
	}
}
