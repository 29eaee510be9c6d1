"""Write a run's report: `ray job submit --working-dir . -- python jobs/report.py …`, with the options of `taft-ray`."""

from taft_ray.cli.run import report_command

if __name__ == "__main__":
    report_command()
