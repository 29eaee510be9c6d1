"""Forget samples; answers with the certificate: `ray job submit --working-dir . -- python jobs/forget.py …`, with the options of `taft-ray`."""

from taft_ray.cli.forgetting import forget

if __name__ == "__main__":
    forget()
