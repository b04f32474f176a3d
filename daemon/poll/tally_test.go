package poll

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"armarium/daemon/lcap"
)

func readJSON(t testing.TB, name string, into any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(b []byte) error {
	var err error
	*h, err = hex.AppendDecode(nil, b)
	return err
}

type vectorVersion struct {
	PH, NH hexBytes
	Err    bool
}

func wire(vs []vectorVersion) (out []lcap.Version) {
	for _, v := range vs {
		out = append(out, lcap.Version{Plain: v.PH, Nonced: v.NH, Err: v.Err})
	}
	return out
}

func TestComparer(t *testing.T) {
	var v struct {
		Cases []struct {
			Note  string
			Own   []vectorVersion `json:"own_versions"`
			Other []vectorVersion `json:"other_versions"`
			Agree bool
		}
	}
	readJSON(t, "comparer.json", &v)
	if len(v.Cases) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range v.Cases {
		own := hashed(lcap.VoteBlock{Versions: wire(c.Own)})
		if got := Agrees(own.Versions, 0, wire(c.Other)); got != c.Agree {
			t.Errorf("%s: %v, want %v", c.Note, got, c.Agree)
		}
		// The same through a ballot.
		b := newBallot([]lcap.VoteBlock{{URL: "u", Versions: wire(c.Other)}}, nil, nil)
		if got := b.judge(&own, 0, 0, true) == Agree; got != c.Agree {
			t.Errorf("%s: in a ballot %v, want %v", c.Note, got, c.Agree)
		}
	}
}

func TestTally(t *testing.T) {
	var v struct {
		Cases []struct {
			Agree, Disagree, Neither, Quorum int
			PollerOnly                       int `json:"poller_only"`
			VoterOnly                        int `json:"voter_only"`
			Margin                           int `json:"vote_margin"`
			Counted                          int `json:"votes_counted"`
			Minimum                          int `json:"landslide_minimum"`
			Result                           string
		}
		Landslide []struct {
			Margin  int   `json:"vote_margin"`
			Minimum []int `json:"minimum_for_0_to_20_votes"`
		} `json:"landslide_minimum"`
	}
	readJSON(t, "tally.json", &v)
	if len(v.Cases) == 0 || len(v.Landslide) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range v.Cases {
		n := Count{Agree: c.Agree, Disagree: c.Disagree, PollerOnly: c.PollerOnly, VoterOnly: c.VoterOnly, Neither: c.Neither, Spoiled: 3}
		want := c.Result
		if want == "NOQUORUM" {
			want = "NO_QUORUM"
		}
		if got := n.Outcome(c.Quorum, c.Margin).String(); got != want || n.Votes() != c.Counted || Landslide(n.Votes(), c.Margin) != c.Minimum {
			t.Errorf("%+v: %s of %d, minimum %d", c, got, n.Votes(), Landslide(n.Votes(), c.Margin))
		}
	}
	for _, l := range v.Landslide {
		for n, want := range l.Minimum {
			if got := Landslide(n, l.Margin); got != want {
				t.Errorf("margin %d of %d: %d, want %d", l.Margin, n, got, want)
			}
		}
	}
}

func TestSymmetricTally(t *testing.T) {
	type block struct {
		URL      string
		Versions []vectorVersion
	}
	var v struct {
		Cases []struct {
			Note            string
			Own, Poller     []block
			Agree, Disagree int
			VoterOnly       int `json:"voter_only"`
			PollerOnly      int `json:"poller_only"`
			Percent         string
		}
	}
	readJSON(t, "symmetric-tally.json", &v)
	if len(v.Cases) == 0 {
		t.Fatal("no cases")
	}
	blocks := func(bs []block) (out []lcap.VoteBlock) {
		for _, b := range bs {
			out = append(out, lcap.VoteBlock{URL: b.URL, Versions: wire(b.Versions)})
		}
		return out
	}
	for _, c := range v.Cases {
		got := TallySymmetric(blocks(c.Own), blocks(c.Poller))
		want := Count{Agree: c.Agree, Disagree: c.Disagree, VoterOnly: c.VoterOnly, PollerOnly: c.PollerOnly}
		percent := strconv.FormatFloat(float64(got.Fraction()), 'f', -1, 32)
		if !strings.Contains(percent, ".") {
			percent += ".0"
		}
		if got != want || percent != c.Percent {
			t.Errorf("%s: %+v %s, want %+v %s", c.Note, got, percent, want, c.Percent)
		}
	}
}

func TestDurations(t *testing.T) {
	var v struct {
		Cases []struct {
			Estimate int64 `json:"hash_estimate_ms"`
			Vote     int64 `json:"target_vote_ms"`
			Tally    int64 `json:"target_tally_ms"`
			Total    int64 `json:"total_poll_duration_ms"`
			VoteEnd  int64 `json:"vote_deadline_offset_ms"`
			TallyEnd int64 `json:"tally_end_offset_ms"`
		}
	}
	readJSON(t, "durations.json", &v)
	if len(v.Cases) == 0 {
		t.Fatal("no cases")
	}
	p := testParams()
	ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	for _, c := range v.Cases {
		ph := phases{ms(c.Estimate), &p}
		vote, tally := ph.split(ms(c.Total))
		if ph.voteTarget() != ms(c.Vote) || ph.tallyTarget() != ms(c.Tally) || vote != ms(c.VoteEnd) || tally != ms(c.TallyEnd) {
			t.Errorf("%+v: targets %v %v, phases %v %v", c, ph.voteTarget(), ph.tallyTarget(), vote, tally)
		}
	}
}

func TestPlan(t *testing.T) {
	p := testParams()
	d, ok := phases{time.Second, &p}.plan(func(start, deadline, est time.Duration) bool { return true })
	if !ok || d != 304*time.Second+305*time.Second+5*time.Minute {
		t.Errorf("%v %v", d, ok)
	}
	n := 0
	d, ok = phases{0, &p}.plan(func(start, deadline, est time.Duration) bool { n++; return n == 3 })
	if want := 10*time.Minute + 2*10*time.Minute + 5*time.Minute; !ok || d != want {
		t.Errorf("third try: %v %v, want %v", d, ok, want)
	}
	if _, ok := (phases{0, &p}).plan(func(start, deadline, est time.Duration) bool { return false }); ok {
		t.Error("planned without time")
	}
}

func TestBallot(t *testing.T) {
	v := lcap.Version{Unfiltered: 300, Filtered: 5, Plain: []byte{1, 2, 3}, Nonced: []byte{4}}
	bad := lcap.Version{Err: true, Plain: make([]byte, 200)}
	in := []lcap.VoteBlock{{URL: "http://x/a", Versions: []lcap.Version{v, bad}}, {URL: "http://x/a/b"}, {URL: "http://x/a-b", Versions: []lcap.Version{v}}}
	b := newBallot(in, nil, nil)
	out := b.blocks()
	if b.spoiled || len(out) != 3 || len(out[0].Versions) != 2 || out[0].Versions[0].Unfiltered != 300 || out[0].Versions[0].Filtered != 5 ||
		string(out[0].Versions[0].Plain) != "\x01\x02\x03" || !out[0].Versions[1].Err || len(out[0].Versions[1].Plain) != 0 || len(out[1].Versions) != 0 ||
		string(out[2].Versions[0].Nonced) != "\x04" {
		t.Errorf("%+v", out)
	}
	if i, ok := b.find("http://x/a-b"); !ok || i != 2 {
		t.Errorf("find: %d %v", i, ok)
	}
	if _, ok := b.find("http://x/b"); ok {
		t.Error("found what is not there")
	}
	in[2].URL = "http://x/A" // out of order: spoiled from there on
	b = newBallot(in, nil, b)
	own := lcap.HashedBlock{}
	for _, c := range []struct {
		url  string
		want Verdict
	}{{"http://x/a/a", PollerOnly}, {"http://x/z", Spoiled}} {
		pos, found := b.find(c.url)
		if got := b.judge(&own, 0, pos, found); got != c.want {
			t.Errorf("%s: %v, want %v", c.url, got, c.want)
		}
	}
	if !newBallot(nil, nil, nil).spoiled {
		t.Error("a vote without blocks is not spoiled")
	}
	if b := newBallot([]lcap.VoteBlock{{URL: ""}, {URL: "http://x/a"}}, nil, nil); !b.spoiled || len(b.urls) != 0 {
		t.Errorf("a block without URL: %+v", b)
	}
}
