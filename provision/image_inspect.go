package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"armarium/appliance/settings"
	"armarium/image/diskimg"
)

func imageInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what is in an image or on a stick",
		Long: `Shows the release, compares every file of the system partition with the manifest, and shows the sealed
settings without passwords. The exit code is 1 if anything is damaged.`,
		Example: `  armarium image inspect library.img
  armarium image inspect /dev/sdb`,
		Args: args(1, 1, "one image file or device"),
		RunE: func(cmd *cobra.Command, a []string) error {
			im, err := diskimg.Open(a[0])
			if err != nil {
				return err
			}
			defer im.Close()
			m, err := im.Manifest()
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "release       %s\nimage id      %s\nkernel        %s\n", m.Version, m.ImageID, m.KernelRelease)
			for _, f := range m.Files {
				fmt.Fprintf(w, "file          %-24s %11d  %s\n", f.Name, f.Size, f.SHA256)
			}
			broken := im.Verify()
			if broken == nil {
				fmt.Fprintln(w, "files         as in the manifest")
			}
			c, err := slots(im, m.ImageID)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "settings      %s\n", c.Verdict)
			for _, p := range c.Problems {
				fmt.Fprintf(w, "problem       %v\n", p)
			}
			if c.Sealed != nil {
				describeSealed(w, c.Sealed)
			}
			switch {
			case broken != nil:
				return fmt.Errorf("the image is damaged; write it again from the release: %w", broken)
			case c.Verdict != settings.Good && c.Verdict != settings.NotConfigured:
				return fmt.Errorf("the settings are not in order (%s): configure the image again", c.Verdict)
			}
			return nil
		},
	}
}
