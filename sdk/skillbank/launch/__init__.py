"""Where jobs run: one interface, a local launcher and one inside the calling process."""

from skillbank.launch.base import Bundle, Launcher, Report
from skillbank.launch.registry import cancel_job, get_launcher

__all__ = ["Bundle", "Launcher", "Report", "cancel_job", "get_launcher"]
