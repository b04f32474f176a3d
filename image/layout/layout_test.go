package layout

import (
	"reflect"
	"strings"
	"testing"
)

const testID = "00112233445566778899aabbccddeeff"

// The geometry is frozen: appliance.md 3.2.
func TestGeometry(t *testing.T) {
	want := []struct {
		name         string
		first, bytes int64
	}{
		{"bios", 2048, 1 << 20},
		{"system", 4096, 128 << 20},
		{"config", 266240, 4 << 20},
	}
	end := int64(34)
	for i, p := range Partitions() {
		if p.Name != want[i].name || p.First != want[i].first || p.Size() != want[i].bytes || p.Number != i+1 {
			t.Errorf("partition %d is %+v, want %+v", i+1, p, want[i])
		}
		if p.First < end {
			t.Errorf("partition %s begins inside of what is before it", p.Name)
		}
		end = p.First + p.Sectors
	}
	if last := int64(ImageSize/Sector - 33); end > last {
		t.Errorf("partitions end at LBA %d, the backup table begins at %d", end, last)
	}
	if ImageSize > MinStick {
		t.Errorf("the image has %d bytes, the smallest stick %d", ImageSize, MinStick)
	}
}

func TestDerivedIDs(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []string{testID, strings.Repeat("0", 32)} {
		for _, name := range []string{"disk", "bios", "system", "config"} {
			g := UniqueGUID(id, name)
			if seen[g] || len(g) != 36 || g[14] != '8' || !strings.ContainsRune("89ab", rune(g[19])) {
				t.Errorf("GUID of %s is %s", name, g)
			}
			if g != UniqueGUID(id, name) {
				t.Errorf("GUID of %s differs from call to call", name)
			}
			seen[g] = true
		}
	}
	if VolumeSerial(testID) == VolumeSerial(strings.Repeat("0", 32)) {
		t.Error("two images share the serial number of the file system")
	}
	if !strings.HasSuffix(CommandLine(testID), " image.id="+testID) {
		t.Error("the command line does not end in the image id")
	}
}

func TestManifestRoundTrip(t *testing.T) {
	m := Manifest{Layout: Version, Version: "1.0 <a&b>", ImageID: testID, Files: []ManifestFile{{"A", 3, "00"}}}
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseManifest(b); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("got %+v, %v, want %+v", got, err, m)
	}
	i := Info{Layout: Version, ImageID: testID, Built: 1, Inputs: []Input{{"a", "1", "00"}}}
	if b, err = i.Encode(); err != nil {
		t.Fatal(err)
	}
	if got, err := ParseInfo(b); err != nil || !reflect.DeepEqual(got, i) {
		t.Errorf("got %+v, %v, want %+v", got, err, i)
	}
}

func TestParseManifestRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "JSON"},
		{"newer layout", `{"layout":2,"image_id":"` + testID + `"}`, "layout version 2"},
		{"no id", `{"layout":1}`, "image id"},
		{"short id", `{"layout":1,"image_id":"0011"}`, "image id"},
		{"huge", `{"layout":1}` + strings.Repeat(" ", MaxManifest), "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ParseManifest([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
			if _, err := ParseInfo([]byte(c.text)); err == nil {
				t.Error("the same is accepted as image information")
			}
		})
	}
}
